"""Errors in Chinese. Below this floor every message is English; here each gets its twin."""

import re
from functools import lru_cache

from dianjing.demo.texts.language import Language

# {} stands for what was given, and goes over as it is; <> for the name of a setting, which has a Chinese one
PAIRS = (
    # dianjing.pipelines.request
    ("<> is {} ({}); give a whole number from {} to {}", "<>是 {}（{}）；请给 {} 到 {} 之间的整数"),
    ("<> is {}; give a whole number from {} to {}", "<>是 {}；请给 {} 到 {} 之间的整数"),
    ("<> is of type {}; give a text", "<>是 {} 类型；请给文字"),
    ("<> is empty; say in Chinese or English what to draw", "<>是空的；请用中文或英文说要画什么"),
    (
        "<> has {} characters; at most {} are taken (the text encoders read a few hundred tokens): shorten it",
        "<>有 {} 个字符；最多 {} 个（文本编码器只读几百个词）：请缩短",
    ),
    (
        "<> holds half of a surrogate pair ({}) at character {}; it is not valid Unicode: "
        "check how the text was decoded (UTF-8 is expected)",
        "<>里第 {1} 个字符是半个代理对（{0}），不是合法的 Unicode：请检查文字的编码（应为 UTF-8）",
    ),
    (
        "<> holds the control character {} at character {}; remove it",
        "<>里第 {1} 个字符是控制字符 {0}；请去掉",
    ),
    (
        "<> {} px is not a multiple of {}, the grid of this model; try {} or {}",
        "<> {} 像素不是 {} 的倍数（这个模型的网格）；可以用 {} 或 {}",
    ),
    (
        "<> {} px is not a multiple of {}, the grid of this model; try {}",
        "<> {} 像素不是 {} 的倍数（这个模型的网格）；可以用 {}",
    ),
    (
        "<> is {}; give a number from {} to {} (1 or less switches guidance off)",
        "<>是 {}；请给 {} 到 {} 之间的数（不大于 1 就不用引导）",
    ),
    ("<> is {}; give a number from {} to {}", "<>是 {}；请给 {} 到 {} 之间的数"),
    (
        "seed {} leaves no room for {} pictures, each of which takes the next seed; the largest is {}",
        "种子 {} 后面放不下 {} 张图（每张用下一个种子）；最大的种子是 {}",
    ),
    # lengths
    ("fps is {}; give a number above 0, at most {}", "每秒帧数是 {}；请给大于 0、不超过 {} 的数"),
    ("duration_s is {}; give seconds, more than 0", "时长是 {}；请给大于 0 的秒数"),
    ("num_frames is {}; what moves takes at least 2", "帧数是 {}；要动起来至少 2 帧"),
    ("{}; {} fit in half of the memory that is free", "{}；空闲内存的一半放得下 {} 帧"),
    # segmenting and regions
    ("no click is given; click on what should move", "还没有点击；请在要动的东西上点一下"),
    ("{} clicks; at most {} are taken", "点了 {} 下；最多 {} 下"),
    ("a click at ({}, {}) is no place; give pixels", "点击 ({}, {}) 不是一个位置；请给像素坐标"),
    (
        "a click at ({}, {}) is outside the picture of {} x {} px; x runs from 0 to {}, y from 0 to {}",
        "点击 ({}, {}) 在图外：图是 {} x {} 像素，x 从 0 到 {}，y 从 0 到 {}",
    ),
    (
        "all clicks are negative; at least one must say what is meant",
        "全是“不要这里”的点；至少要有一个点说明要动什么",
    ),
    ("the region of {} needs points or a mask, one of the two", "{} 那一处要有点击或蒙版，两者取一"),
    (
        "{} regions are given; this model was trained for 1 to {} at once",
        "选了 {} 处；这个模型一次能动 1 到 {} 处",
    ),
    ("nothing of the region of {} is left in the picture ({})", "{} 那一处在裁过的图里没有剩下（{}）"),
    ("a mask has shape {}; the picture needs {}", "蒙版的大小是 {}；这张图要 {}"),
    ("a mask is empty; mark what should move", "蒙版是空的；请标出要动的东西"),
    ("a mask covers the whole picture; mark what should move", "蒙版盖住了整张图；请只标出要动的东西"),
    # fitting and media
    ("{} has {} x {} px; at most {} pixels are taken", "{} 有 {} x {} 像素；最多 {} 像素"),
    (
        "{} is {} x {} px; one side may be at most {} times the other",
        "{} 是 {} x {} 像素；一边最多是另一边的 {} 倍",
    ),
    ("{} cannot be read as a picture: {}", "{} 打不开，不是完好的图片：{}"),
    (
        "{} holds no {}; it was not made by Dianjing, or another program removed it",
        "{} 里没有 {}；它不是点睛做的，或者被别的程序去掉了",
    ),
    ("{} cannot be read as a PNG made by Dianjing: {}", "{} 不是点睛画的 PNG：{}"),
    ("{} cannot be read as a film made by Dianjing: {}", "{} 不是点睛做的影片：{}"),
    (
        "this transformer draws pictures only; film needs one trained with use_motion_blocks {}",
        "这个模型只会画静止的图；影片要用训练过运动层的模型",
    ),
    # conversation
    ("there is no picture yet; say what to draw", "还没有图；请先说要画什么"),
    ("give 1 to {} kinds of objects, at most {} together", "一张图里放 1 到 {} 种东西，一共最多 {} 个"),
    ("there are {} objects; at most {} fit", "已经有 {} 个东西；最多 {} 个"),
    (
        "there are {} kinds of objects, as many as one picture takes",
        "已经有 {} 种东西，一张图里放不下更多种了",
    ),
    (
        "nothing would be left; replace it, or say what to draw instead",
        "去掉就什么也不剩了；可以换成别的，或者说要画什么",
    ),
    ("{} and the other {} do not fit; 1 to {} objects do", "{} 个加上另外 {} 个放不下；一共 1 到 {} 个"),
    ("there is no room for it there; move or remove something first", "那里放不下；请先移开或去掉别的"),
    ("there is no room for it to grow; remove something first", "没有地方变大了；请先去掉别的"),
    ("it is as small as can be drawn", "已经是能画的最小了"),
    ("there is no {} in the picture; add it first", "图里没有 {}；请先加上"),
    ("there is no picture before this one to go back to", "前面没有图可以退回"),
    ("nothing has been drawn that could be undone", "还没有画过，没什么可撤销"),
    (
        "{} holds no conversation that can be gone on with: {} is missing",
        "{} 不是能接着聊的对话：缺少 {}",
    ),
    ("{} holds no conversation that can be gone on with: {}", "{} 不是能接着聊的对话：{}"),
    ("{} holds no conversation: it is nested too deeply", "{} 不是对话：嵌套太深"),
)

NAMES = {
    "prompt": "提示词",
    "negative_prompt": "“不要出现”",
    "motion": "“怎么动”",
    "text": "说的话",
    "width": "宽",
    "height": "高",
    "num_inference_steps": "步数",
    "num_images_per_prompt": "张数",
    "num_images": "张数",
    "guidance_scale": "引导强度",
    "strength": "力度",
    "seed": "种子",
    "num_frames": "帧数",
}


def in_language(message: str, language: Language) -> str:
    """An error's message for its reader; in Chinese one that has no twin says so and stays as it was."""
    if language == "en":
        return message
    for pattern, chinese in _patterns():
        found = pattern.fullmatch(message)
        if found is not None:
            return _filled(chinese, found)
    return f"出错了：{message}"


def _filled(chinese: str, found: re.Match[str]) -> str:
    name = found.groupdict().get("name")
    values = [value for key, value in enumerate(found.groups(), start=1) if key != found.re.groupindex.get("name")]
    named = chinese if name is None else chinese.replace("<>", NAMES.get(name, name))
    return named.format(*values)


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    patterns = []
    for english, chinese in PAIRS:
        pattern = re.escape(english).replace(r"\{\}", "(.+?)").replace("<>", "(?P<name>[a-z_]+)")
        patterns.append((re.compile(pattern, flags=re.DOTALL), chinese))
    return patterns
