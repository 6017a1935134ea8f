"""A scene in words, as the embedded model was taught to be spoken to; other models take them as well."""

from dianjing.pipelines.conversation.layout import is_beside
from dianjing.pipelines.conversation.scenes import SMALL, USUAL, Box, Scene, Thing
from dianjing.pipelines.names import Names

NUMBERS_EN = ("", "one", "two", "three", "four")
NUMBERS_ZH = ("", "一", "两", "三", "四")
PLACES_EN = {
    "top left": "at the top left", "top": "at the top", "top right": "at the top right", "left": "on the left",
    "middle": "in the middle", "right": "on the right", "bottom left": "at the bottom left", "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}  # fmt: skip
PLACES_ZH = {
    "top left": "左上角", "top": "上方", "top right": "右上角", "left": "左边", "middle": "中间", "right": "右边",
    "bottom left": "左下角", "bottom": "下方", "bottom right": "右下角",
}  # fmt: skip
RELATIONS_EN = {
    "left": "{} to the left of {}",
    "right": "{} to the right of {}",
    "above": "{} above {}",
    "below": "{} below {}",
}
RELATIONS_ZH = {"left": "{}在{}的左边", "right": "{}在{}的右边", "above": "{}在{}的上面", "below": "{}在{}的下面"}


def size_of(box: Box) -> str | None:
    """The word for what is not of the usual size."""
    return "small" if box.side <= SMALL else "big" if box.side > USUAL else None


def noun_phrase(thing: Thing, names: Names, *, language: str, count: int, size: str | None) -> str:
    """ "two small red balloons", 两个小小的红色的气球."""
    return (_noun_zh if language == "zh" else _noun_en)(thing, names, count, size)


def _noun_en(thing: Thing, names: Names, count: int, size: str | None) -> str:
    known = names.find_object(thing.name)
    name = thing.name if known is None else known.names_en[0]
    plural = f"{name}s" if known is None else known.plurals_en[0]
    words = [word for word in (size, thing.colour) if word is not None]
    if count > 1:
        countable = next((p for p in known.plurals_en if p), name) if known is not None else plural
        return " ".join([NUMBERS_EN[count], *words, plural or countable])
    article = "some" if not plural else "an" if [*words, name][0][0] in "aeiou" else "a"
    return " ".join([article, *words, name])


def _noun_zh(thing: Thing, names: Names, count: int, size: str | None) -> str:
    known = names.find_object(thing.name)
    colour = None if thing.colour is None else names.find_colour(thing.colour)
    said = thing.colour if colour is None else f"{colour.name_zh}的"
    measure, name = ("个", thing.name) if known is None else (known.measure_zh, known.names_zh[0])
    return NUMBERS_ZH[count] + measure + {None: "", "big": "大大的", "small": "小小的"}[size] + (said or "") + name


def caption(scene: Scene, names: Names, *, language: str) -> str:
    """The whole scene in one sentence."""
    zh = language == "zh"
    phrases = [
        noun_phrase(thing, names, language=language, count=thing.count, size=size_of(thing.boxes[0]))
        for thing in scene.things
    ]
    first = scene.things[0]
    if len(scene.things) == 2 and (relation := _relation(*scene.things)) is not None:
        body, is_phrase = (RELATIONS_ZH if zh else RELATIONS_EN)[relation].format(*phrases), False
    elif len(scene.boxes) == 1 and first.boxes[0].place != "middle":
        place = first.boxes[0].place
        body, is_phrase = f"{phrases[0]}在{PLACES_ZH[place]}" if zh else f"{phrases[0]} {PLACES_EN[place]}", False
    else:
        body, is_phrase = _listed(phrases, comma="、" if zh else ", ", last="和" if zh else " and "), True
    return _with_background(body, scene.background, names, language=language, is_phrase=is_phrase)


def caption_alone(
    thing: Thing, background: str | None, names: Names, *, language: str, place: str, size: str | None = None
) -> str:
    """One object at its place, as if nothing else were there: what a part of the picture is drawn from."""
    phrase = noun_phrase(thing, names, language=language, count=1, size=size)
    zh = language == "zh"
    body = f"{phrase}在{PLACES_ZH[place]}" if zh else f"{phrase} {PLACES_EN[place]}"
    return _with_background(body, background, names, language=language, is_phrase=False)


def _relation(first: Thing, second: Thing) -> str | None:
    if first.count > 1 or second.count > 1:
        return None
    sides = ("left", "right", "above", "below")
    return next((side for side in sides if is_beside(first.boxes[0], second.boxes[0], side)), None)


def _listed(phrases: list[str], *, comma: str, last: str) -> str:
    return phrases[0] if len(phrases) == 1 else comma.join(phrases[:-1]) + last + phrases[-1]


def _with_background(body: str, background: str | None, names: Names, *, language: str, is_phrase: bool) -> str:
    if background is None:
        return body
    known = names.find_background(background)
    if language == "zh":
        where = f"{background}背景上" if known is None else known.where_zh[0]
        return f"{where}的{body}" if is_phrase else f"{where}，{body}"
    return f"{body}, {background}" if known is None else f"{body} {known.where_en[0]}"
