"""What a conversation says where it does not draw, in both languages. Values stand in braces."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalizedMessage:
    """The same in both languages."""

    en: str
    zh: str

    def render(self, language: str, **values: object) -> str:
        return (self.zh if language == "zh" else self.en).format(**values)


UNKNOWN_WORDS = LocalizedMessage("this model does not know: {words}", "这个模型不认识：{words}")
RULE_PARSER_FALLBACK = LocalizedMessage(
    "the chat model's answers could not be used ({reason}); the embedded rules were",
    "聊天模型的回答用不了（{reason}），改用了内置规则",
)
NO_INSTRUCTION = LocalizedMessage(
    'say what to draw or change, such as "add a dog on the left", "make it bigger" or "on the beach"',
    "请说要画什么或怎么改，例如“左边加一只小狗”“把它变大一点”“换成沙滩”",
)
ONLY_UNKNOWN_WORDS = LocalizedMessage(
    f"{UNKNOWN_WORDS.en}; {NO_INSTRUCTION.en}", f"{UNKNOWN_WORDS.zh}；{NO_INSTRUCTION.zh}"
)
OBJECT_NOT_FOUND = LocalizedMessage("there is no {name} in the picture; add it first", "图片里没有{name}；请先加上")
NO_IMAGE = LocalizedMessage("there is no picture yet; say what to draw", "还没有图片；请说要画什么")
NO_PREVIOUS_IMAGE = LocalizedMessage("there is no picture before this one to go back to", "前面没有可以退回的图片")
NOTHING_TO_UNDO = LocalizedMessage("nothing has been drawn that could be undone", "还没有画过，没有什么可以撤销")
INVALID_OBJECT_COUNT = LocalizedMessage(
    "give 1 to {kinds} kinds of objects, at most {most} together", "请给出 1 到 {kinds} 种物体，合计最多 {most} 个"
)
TOO_MANY_INSTANCES = LocalizedMessage(
    "there are {count} objects; at most {most} fit", "已有 {count} 个物体；最多放得下 {most} 个"
)
TOO_MANY_OBJECTS = LocalizedMessage(
    "there are {count} kinds of objects, as many as one picture takes", "已有 {count} 种物体，一张图片最多这么多种"
)
EMPTY_SCENE = LocalizedMessage(
    "nothing would be left; replace it, or say what to draw instead", "这样就什么都不剩了；请换成别的，或说要画什么"
)
COUNT_DOES_NOT_FIT = LocalizedMessage(
    "{count} and the other {others} do not fit; 1 to {most} objects do",
    "{count} 个加上其他 {others} 个放不下；最多 {most} 个物体",
)
NO_FREE_BOX = LocalizedMessage(
    "there is no room for it there; move or remove something first", "那里放不下；请先移动或去掉一些东西"
)
CANNOT_ENLARGE = LocalizedMessage(
    "there is no room for it to grow; remove something first", "没有地方变大了；请先去掉一些东西"
)
CANNOT_SHRINK = LocalizedMessage("it is as small as can be drawn", "已经是能画的最小尺寸")
EDIT_ERROR_MESSAGES = (
    NO_INSTRUCTION,
    ONLY_UNKNOWN_WORDS,
    OBJECT_NOT_FOUND,
    NO_IMAGE,
    NO_PREVIOUS_IMAGE,
    NOTHING_TO_UNDO,
    INVALID_OBJECT_COUNT,
    TOO_MANY_INSTANCES,
    TOO_MANY_OBJECTS,
    EMPTY_SCENE,
    COUNT_DOES_NOT_FIT,
    NO_FREE_BOX,
    CANNOT_ENLARGE,
    CANNOT_SHRINK,
)


class EditError(ValueError):
    """What was said is understood, or nearly, and cannot be drawn; the message is for whoever said it."""

    def __init__(self, message: LocalizedMessage, language: str = "en", **values: object):
        super().__init__(message.render(language, **values))
        self.message, self.values = message, values

    def translate(self, language: str) -> "EditError":
        """The same in another language."""
        return EditError(self.message, language, **self.values)
