"""What the server says while it works, in the caller's language."""

from dianjing.demo.texts.interface import Text

MESSAGES = {
    "waiting": Text("排队中，前面还有 {position} 个", "In the queue; {position} before you"),
    "starting": Text("这就开始", "Starting"),
    "step": Text("第 {step} 步，共 {total} 步", "Step {step} of {total}"),
    "window": Text(
        "第 {step} 步，共 {total} 步 · 第 {window} 段，共 {windows} 段",
        "Step {step} of {total} · window {window} of {windows}",
    ),
    "done": Text("好了，用了 {seconds} 秒", "Done in {seconds} s"),
    "cancelled": Text("停下了；留着最后的预览", "Stopped; the last preview is kept"),
    "stopped": Text("停下了", "Stopped"),
    "unknown_words": Text(
        "这个模型不认识：{words}。换个说法试试。", "This model does not know: {words}. Try other words."
    ),
    "settings_back": Text("设置找回来了", "The settings are back"),
    "need_picture": Text(
        "还没有图；请上传一张，或在“画图”里画一张送过来",
        "there is no picture yet; upload one, or send one from Draw",
    ),
    "need_click": Text("第 {number} 处还没有点；请在图上点一下", "region {number} has no click; click on the picture"),
    "need_motion": Text("第 {number} 处还没说怎么动", "say how region {number} should move"),
    "talk_name": Text("第 {number} 路", "Talk {number}"),
}


def say(name: str, language: str, **values: object) -> str:
    """One message with its values."""
    text = MESSAGES[name]
    return (text.zh if language == "zh" else text.en).format(**values)
