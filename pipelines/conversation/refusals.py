"""What a conversation says where it does not draw, in both languages. Values stand in braces."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """The same in both languages."""

    en: str
    zh: str

    def say(self, language: str, **values: object) -> str:
        return (self.zh if language == "zh" else self.en).format(**values)


UNKNOWN_WORDS = Sentence("this model does not know: {words}", "这个模型不认识：{words}")
RULES_INSTEAD = Sentence(
    "the chat model's answers could not be used ({reason}); the embedded rules were",
    "聊天模型的回答用不了（{reason}），改用了内置规则",
)

NOTHING_ASKED = Sentence(
    'say what to draw or change, such as "add a dog on the left", "make it bigger" or "on the beach"',
    "请说要画什么或怎么改，例如“左边加一只小狗”“把它变大一点”“换成沙滩”",
)
NOTHING_KNOWN = Sentence(
    f"{UNKNOWN_WORDS.en}; {NOTHING_ASKED.en}",
    f"{UNKNOWN_WORDS.zh}；{NOTHING_ASKED.zh}",
)
ABSENT = Sentence("there is no {name} in the picture; add it first", "图片里没有{name}；请先加上")
NO_PICTURE = Sentence("there is no picture yet; say what to draw", "还没有图片；请说要画什么")
NO_PICTURE_BEFORE = Sentence("there is no picture before this one to go back to", "前面没有可以退回的图片")
NOTHING_DRAWN = Sentence("nothing has been drawn that could be undone", "还没有画过，没有什么可以撤销")
WRONG_NUMBER = Sentence(
    "give 1 to {kinds} kinds of objects, at most {most} together", "请给出 1 到 {kinds} 种物体，合计最多 {most} 个"
)
TOO_MANY = Sentence("there are {count} objects; at most {most} fit", "已有 {count} 个物体；最多放得下 {most} 个")
TOO_MANY_KINDS = Sentence(
    "there are {count} kinds of objects, as many as one picture takes", "已有 {count} 种物体，一张图片最多这么多种"
)
NOTHING_LEFT = Sentence(
    "nothing would be left; replace it, or say what to draw instead", "这样就什么都不剩了；请换成别的，或说要画什么"
)
TOO_MANY_BESIDE = Sentence(
    "{count} and the other {others} do not fit; 1 to {most} objects do",
    "{count} 个加上其他 {others} 个放不下；最多 {most} 个物体",
)
NO_ROOM = Sentence(
    "there is no room for it there; move or remove something first", "那里放不下；请先移动或去掉一些东西"
)
NO_ROOM_TO_GROW = Sentence(
    "there is no room for it to grow; remove something first", "没有地方变大了；请先去掉一些东西"
)
SMALLEST = Sentence("it is as small as can be drawn", "已经是能画的最小尺寸")

REFUSALS = (
    NOTHING_ASKED, NOTHING_KNOWN, ABSENT, NO_PICTURE, NO_PICTURE_BEFORE, NOTHING_DRAWN, WRONG_NUMBER, TOO_MANY,
    TOO_MANY_KINDS, NOTHING_LEFT, TOO_MANY_BESIDE, NO_ROOM, NO_ROOM_TO_GROW, SMALLEST,
)  # fmt: skip


class NotPossibleError(ValueError):
    """What was said is understood, or nearly, and cannot be drawn; the message is for whoever said it."""

    def __init__(self, refusal: Sentence, language: str = "en", **values: object):
        super().__init__(refusal.say(language, **values))
        self.refusal, self.values = refusal, values

    def told(self, language: str) -> "NotPossibleError":
        """The same in another language."""
        return NotPossibleError(self.refusal, language, **self.values)
