"""What an edit did, in a few words of either language."""

from dianjing.pipelines.conversation.captions import NUMBERS_EN, NUMBERS_ZH, PLACES_EN, PLACES_ZH, noun_phrase
from dianjing.pipelines.conversation.edits import (
    Add,
    Draw,
    Edit,
    Move,
    Recolour,
    Redraw,
    Remove,
    Replace,
    Resize,
    SetBackground,
    SetCount,
    Wanted,
)
from dianjing.pipelines.conversation.scenes import Box, Scene, Thing
from dianjing.pipelines.names import Names

SIDES_ZH = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}
SIDES_EN = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def describe(edit: Edit, scene: Scene | None, names: Names, *, language: str) -> str:
    """One change to the scene before it: "added a dog", 加了一只小狗."""
    zh = language == "zh"
    if isinstance(edit, Draw):
        return "画了新的一张" if zh else "drew a new picture"
    if isinstance(edit, Redraw):
        return "重画了一张" if zh else "drew it again from other noise"
    if scene is None or not isinstance(
        edit, SetBackground | Add | Remove | Replace | Move | Resize | SetCount | Recolour
    ):
        return "撤销了上一步" if zh else "undid the last change"
    if isinstance(edit, SetBackground):
        known = names.find_background(edit.background)
        name = edit.background if known is None else known.name_zh if zh else known.name_en
        return f"背景换成了{name}" if zh else f"changed the background to {name}"
    if isinstance(edit, Add):
        wanted = _phrase(edit.wanted, names, language)
        return f"加了{wanted}" if zh else f"added {wanted}"
    return _of_a_thing(edit, scene, names, zh=zh)


def _of_a_thing(
    edit: Remove | Replace | Move | Resize | SetCount | Recolour, scene: Scene, names: Names, *, zh: bool
) -> str:
    it = _name(scene.things[edit.of].name, names, zh=zh)
    if isinstance(edit, Remove):
        return f"去掉了{it}" if zh else f"removed the {it}"
    if isinstance(edit, Replace):
        wanted = _phrase(edit.wanted, names, "zh" if zh else "en")
        return f"把{it}换成了{wanted}" if zh else f"replaced the {it} with {wanted}"
    if isinstance(edit, Resize):
        return f"把{it}变{'大' if edit.to == 'bigger' else '小'}了" if zh else f"made the {it} {edit.to}"
    if isinstance(edit, SetCount):
        number = NUMBERS_ZH[edit.count] if zh else NUMBERS_EN[edit.count]
        return f"{it}变成了{number}个" if zh else f"there are now {number} of the {it}"
    if isinstance(edit, Recolour):
        colour = names.find_colour(edit.colour)
        name = edit.colour if colour is None else colour.name_zh if zh else colour.name_en
        return f"把{it}变成了{name}" if zh else f"made the {it} {name}"
    return _moved(edit, it, scene, names, zh=zh)


def _moved(edit: Move, it: str, scene: Scene, names: Names, *, zh: bool) -> str:
    if edit.place is not None:
        return f"把{it}移到了{PLACES_ZH[edit.place]}" if zh else f"moved the {it}: {PLACES_EN[edit.place]}"
    assert edit.anchor is not None
    assert edit.relation is not None
    other = _name(scene.things[edit.anchor].name, names, zh=zh)
    if zh:
        return f"把{it}移到了{other}的{SIDES_ZH[edit.relation]}"
    return f"moved the {it} {SIDES_EN[edit.relation]} the {other}"


def _name(name: str, names: Names, *, zh: bool) -> str:
    known = names.find_object(name)
    return name if known is None else known.names_zh[0] if zh else known.names_en[0]


def _phrase(wanted: Wanted, names: Names, language: str) -> str:
    thing = Thing(name=wanted.name, colour=wanted.colour, boxes=(Box(x=0, y=0, side=1),))
    return noun_phrase(thing, names, language=language, count=wanted.count, size=wanted.size)
