"""The texts that stand on the page. The browser chooses the language, by keys, in Gradio's `I18n`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BilingualText:
    """The same in both languages."""

    zh: str
    en: str


HEADER_TEXTS = {
    "head_title": BilingualText("点睛", "Dianjing"),
    "head_motto": BilingualText("画龙点睛，破壁而飞", "Dot the eye, and the dragon flies"),
    "tab_image": BilingualText("画图", "Draw"),
    "tab_animate": BilingualText("让它动", "Animate"),
    "tab_video": BilingualText("影片", "Film"),
    "tab_chat": BilingualText("聊着画", "Talk"),
}
SETTINGS_TEXTS = {
    "advanced": BilingualText("更多设置", "More settings"),
    "prompt": BilingualText("画什么", "What to draw"),
    "negative_prompt": BilingualText("不要出现", "What to leave out"),
    "width": BilingualText("宽（像素）", "Width (px)"),
    "height": BilingualText("高（像素）", "Height (px)"),
    "steps": BilingualText("步数", "Steps"),
    "steps_info": BilingualText("越多越细，也越慢", "More is finer, and slower"),
    "guidance": BilingualText("听话程度", "Guidance"),
    "guidance_info": BilingualText("越大越照着话画", "Higher follows the words more closely"),
    "seed": BilingualText("种子", "Seed"),
    "keep_seed": BilingualText("固定种子", "Keep the seed"),
    "visible_label": BilingualText("角上标“AI生成”", "Mark “AI” in the corner"),
    "visible_label_info": BilingualText("文件里总有隐式标识", "The file itself always says so"),
    "drop": BilingualText("找回设置：拖入这里做的文件", "Settings back: drop a file made here"),
    "cancel": BilingualText("停下", "Stop"),
    "made": BilingualText("做过的", "Made so far"),
    "examples": BilingualText("试试看", "Try one"),
}
IMAGE_TEXTS = {
    "image_placeholder": BilingualText("例如：草地上的一只小猫", "For example: a cat on the grass"),
    "image_button": BilingualText("画", "Draw"),
    "image_count": BilingualText("几张", "How many"),
    "image_to_animate": BilingualText("让它动起来", "Bring it to life"),
    "image_to_settings": BilingualText("用它的设置", "Use its settings"),
    "download": BilingualText("下载", "Download"),
    "clear_all": BilingualText("全部清除", "Clear all"),
}
ANIMATE_TEXTS = {
    "animate_picture": BilingualText("点一下要动的东西", "Click on what should move"),
    "animate_upload": BilingualText("拖入一张图，或点击上传", "Drop a picture here, or click to choose one"),
    "animate_click": BilingualText("点击表示", "A click means"),
    "animate_in": BilingualText("要动的", "This moves"),
    "animate_out": BilingualText("不要这里", "Not this"),
    "animate_undo": BilingualText("撤销一点", "Undo a click"),
    "animate_clear": BilingualText("清空", "Clear"),
    "animate_region": BilingualText("第几处", "Region"),
    "animate_add": BilingualText("再选一处", "Another region"),
    "animate_motion": BilingualText("怎么动", "How it moves"),
    "animate_strength": BilingualText("力度", "Strength"),
    "animate_prompt": BilingualText("图里是什么（可不填）", "What the picture shows (may be left empty)"),
    "animate_frames": BilingualText("帧数", "Frames"),
    "animate_button": BilingualText("动起来", "Animate"),
    "download_video": BilingualText("下载视频 MP4", "Video MP4"),
    "download_webp": BilingualText("动态贴纸 WebP", "Sticker WebP"),
    "download_gif": BilingualText("动态贴纸 GIF", "Sticker GIF"),
    "no_motion": BilingualText(
        "**这个模型只会画静止的图。**它没有运动层，所以这一页现在用不了。换一个会动的模型打开即可："
        "`dianjing demo --model 文件夹`。",
        "**This model draws still pictures only.** It has no motion layers, so this tab cannot be used with it. "
        "Open one that has them: `dianjing demo --model FOLDER`.",
    ),
}
VIDEO_TEXTS = {
    "video_prompt": BilingualText("拍什么", "What happens"),
    "video_placeholder": BilingualText("例如：草地上的小猫在跳", "For example: a cat jumping on the grass"),
    "video_seconds": BilingualText("几秒", "Seconds"),
    "video_fps": BilingualText("每秒帧数", "Frames per second"),
    "video_button": BilingualText("拍", "Film"),
}
CHAT_TEXTS = {
    "chat_history": BilingualText("对话", "Conversation"),
    "chat_placeholder": BilingualText(
        "说说要画什么，例如“画一只小猫”；再说要改哪里，例如“背景换成夜空”。没提到的都不变。",
        "Say what to draw, such as “a cat on the grass”; then what to change, such as “add a moon on the right”. "
        "What is not mentioned stays.",
    ),
    "chat_message": BilingualText("说一句……", "Say something ..."),
    "chat_button": BilingualText("说", "Say"),
    "chat_undo": BilingualText("退一步", "Undo"),
    "chat_new": BilingualText("新的对话", "New talk"),
    "chat_fork": BilingualText("另开一路", "Fork"),
    "chat_conversation": BilingualText("哪一路", "Talks"),
    "chat_save": BilingualText("存成文件", "Save"),
    "chat_load": BilingualText("打开文件", "Open"),
}
TEXTS = {**HEADER_TEXTS, **SETTINGS_TEXTS, **IMAGE_TEXTS, **ANIMATE_TEXTS, **VIDEO_TEXTS, **CHAT_TEXTS}


# one line each: the words of the small embedded model, so that a click on one always works
IMAGE_EXAMPLES = (
    "草地上的一只小猫",
    "夜空下的一座房子",
    "三个红色的气球",
    "a penguin on the snow",
    "a dog to the left of a tree",
    "a blue car on the road",
)
VIDEO_EXAMPLES = ("一只小狗在向右走", "一只蝴蝶在拍翅膀", "a cat jumping on the grass", "a rocket moving up at night")
CHAT_EXAMPLES = ("画一只小猫", "背景换成夜空", "draw a dog on the grass", "add a red balloon at the top right")
MOTION_SUGGESTIONS = (
    BilingualText("跳", "jump"),
    BilingualText("向右移动", "move right"),
    BilingualText("向左移动", "move left"),
    BilingualText("摇摆", "sway"),
    BilingualText("旋转", "spin"),
    BilingualText("变大", "grow"),
)
MESSAGES = {
    "waiting": BilingualText("排队中，前面还有 {position} 个", "In the queue; {position} before you"),
    "starting": BilingualText("这就开始", "Starting"),
    "step": BilingualText("第 {step} 步，共 {total} 步", "Step {step} of {total}"),
    "window": BilingualText(
        "第 {step} 步，共 {total} 步 · 第 {window} 段，共 {windows} 段",
        "Step {step} of {total} · window {window} of {windows}",
    ),
    "done": BilingualText("好了，用了 {seconds} 秒", "Done in {seconds} s"),
    "cancelled": BilingualText("停下了；留着最后的预览", "Stopped; the last preview is kept"),
    "stopped": BilingualText("停下了", "Stopped"),
    "unknown_words": BilingualText(
        "这个模型不认识：{words}。换个说法试试。", "This model does not know: {words}. Try other words."
    ),
    "settings_back": BilingualText("设置找回来了", "The settings are back"),
    "need_picture": BilingualText(
        "还没有图；请上传一张，或在“画图”里画一张送过来", "there is no picture yet; upload one, or send one from Draw"
    ),
    "need_click": BilingualText(
        "第 {number} 处还没有点；请在图上点一下", "region {number} has no click; click on the picture"
    ),
    "need_motion": BilingualText("第 {number} 处还没说怎么动", "say how region {number} should move"),
    "chat_name": BilingualText("第 {number} 路", "Talk {number}"),
}


def format_message(name: str, language: str, **values: object) -> str:
    """One message with its values."""
    text = MESSAGES[name]
    return (text.zh if language == "zh" else text.en).format(**values)
