"""The kinds of change a turn can make, and the pure functions that make them.

`of` and `anchor` are indices of a scene's things.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dianjing.pipelines.conversation import layout, refusals
from dianjing.pipelines.conversation.refusals import NotPossibleError
from dianjing.pipelines.conversation.scenes import (
    LARGEST,
    MAX_KINDS,
    MAX_OBJECTS,
    SMALL,
    USUAL,
    Box,
    Scene,
    Thing,
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An object that is asked for. size: "big" or "small"; place: one of PLACES."""

    name: str
    count: int = 1
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A picture from nothing. relation: the side of the second object that the first is on."""

    wanted: tuple[Wanted, ...]
    background: str | None = None
    relation: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetBackground:
    background: str


@dataclass(frozen=True, kw_only=True)
class Add:
    """relation: the side of `anchor` that it goes to."""

    wanted: Wanted
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class Remove:
    of: int


@dataclass(frozen=True, kw_only=True)
class Replace:
    of: int
    wanted: Wanted


@dataclass(frozen=True, kw_only=True)
class Move:
    """To a place, or to a side of another object."""

    of: int
    place: str | None = None
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class Resize:
    """to: "bigger" or "smaller"."""

    of: int
    to: str


@dataclass(frozen=True, kw_only=True)
class SetCount:
    of: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Recolour:
    of: int
    colour: str


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """The same scene from other noise."""


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Back to the picture before."""


Edit = Draw | SetBackground | Add | Remove | Replace | Move | Resize | SetCount | Recolour | Redraw | Undo


def apply(scene: Scene | None, edit: Edit) -> Scene:
    """The scene after an edit.

    Raises: NotPossibleError for what there is no room for, or nothing to do it to.
    """
    if isinstance(edit, Draw):
        return _draw(edit)
    if scene is None:
        raise NotPossibleError(refusals.NO_PICTURE)
    return _CHANGES[type(edit)](scene, edit)


def _draw(edit: Draw) -> Scene:
    counts = [wanted.count for wanted in edit.wanted]
    if not 1 <= len(counts) <= MAX_KINDS or sum(counts) > MAX_OBJECTS or min(counts) < 1:
        raise NotPossibleError(refusals.WRONG_NUMBER, kinds=MAX_KINDS, most=MAX_OBJECTS)
    if edit.relation is not None and counts == [1, 1]:
        boxes: list[Box] = list(layout.beside(edit.relation))
    elif any(wanted.place is not None for wanted in edit.wanted):
        boxes = _placed(edit.wanted)
    else:
        boxes = list(layout.together(sum(counts)))
    things = []
    for wanted in edit.wanted:
        own, boxes = boxes[: wanted.count], boxes[wanted.count :]
        things.append(Thing(name=wanted.name, colour=wanted.colour, boxes=tuple(_sized(box, wanted) for box in own)))
    return Scene(things=tuple(things), background=edit.background, focus=0 if edit.relation else len(things) - 1)


def _placed(wanted: Sequence[Wanted]) -> list[Box]:
    boxes: dict[int, list[Box]] = {}
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i].place is None):
        for _ in range(wanted[index].count):
            taken = [box for group in boxes.values() for box in group]
            boxes.setdefault(index, []).append(layout.find_room(taken, place=wanted[index].place))
    return [box for index in range(len(wanted)) for box in boxes[index]]


def _sized(box: Box, wanted: Wanted) -> Box:
    side = {"big": box.side + 2, "small": SMALL, None: box.side}[wanted.size]
    if side < box.side and wanted.place is not None:
        return layout.place_box(wanted.place, side=side)
    return layout.resized(box, side=min(side, LARGEST))


def _add(scene: Scene, edit: Add) -> Scene:
    wanted = edit.wanted
    same = next((i for i, t in enumerate(scene.things) if (t.name, t.colour) == (wanted.name, wanted.colour)), None)
    if len(scene.boxes) + wanted.count > MAX_OBJECTS:
        raise NotPossibleError(refusals.TOO_MANY, count=len(scene.boxes), most=MAX_OBJECTS)
    if same is None and len(scene.things) == MAX_KINDS:
        raise NotPossibleError(refusals.TOO_MANY_KINDS, count=MAX_KINDS)
    anchor = None if edit.anchor is None else scene.things[edit.anchor].boxes[0]
    boxes = list(scene.boxes)
    sides = (SMALL,) if wanted.size == "small" else (USUAL, SMALL)
    for _ in range(wanted.count):
        box = layout.find_room(boxes, place=wanted.place, anchor=anchor, relation=edit.relation, sides=sides)
        boxes.append(layout.larger(box, boxes) if wanted.size == "big" else box)
    new = tuple(boxes[len(scene.boxes) :])
    if same is not None:
        return scene.with_thing(same, boxes=scene.things[same].boxes + new)
    things = (*scene.things, Thing(name=wanted.name, colour=wanted.colour, boxes=new))
    return replace(scene, things=things, focus=len(things) - 1)


def _remove(scene: Scene, edit: Remove) -> Scene:
    if len(scene.things) == 1:
        raise NotPossibleError(refusals.NOTHING_LEFT)
    return scene.without(edit.of)


def _replace(scene: Scene, edit: Replace) -> Scene:
    wanted = edit.wanted
    scene = scene.with_thing(edit.of, name=wanted.name, colour=wanted.colour)
    if wanted.count != scene.things[edit.of].count:
        scene = _set_count(scene, SetCount(of=edit.of, count=wanted.count))
    if wanted.size is None:
        return scene
    return _resize(scene, Resize(of=edit.of, to="bigger" if wanted.size == "big" else "smaller"))


def _others(scene: Scene, of: int) -> list[Box]:
    return [box for index, thing in enumerate(scene.things) if index != of for box in thing.boxes]


def _move(scene: Scene, edit: Move) -> Scene:
    thing, taken = scene.things[edit.of], _others(scene, edit.of)
    boxes: list[Box] = []
    anchor = None if edit.anchor is None else scene.things[edit.anchor].boxes[0]
    try:
        for box in thing.boxes:
            sides = list(range(box.side, SMALL - 1, -1)) or [box.side]
            boxes.append(
                layout.find_room([*taken, *boxes], place=edit.place, anchor=anchor, relation=edit.relation, sides=sides)
            )
    except NotPossibleError:
        if edit.anchor is None or edit.relation is None or len(scene.boxes) != 2:
            raise
        first, second = layout.beside(edit.relation)  # two alone can both make way
        scene = scene.with_thing(edit.anchor, boxes=(second,))
        boxes = [first]
    return scene.with_thing(edit.of, boxes=tuple(boxes))


def _resize(scene: Scene, edit: Resize) -> Scene:
    boxes: list[Box] = list(scene.things[edit.of].boxes)
    for index, box in enumerate(boxes):
        taken = _others(scene, edit.of) + boxes[:index] + boxes[index + 1 :]
        boxes[index] = layout.larger(box, taken) if edit.to == "bigger" else layout.smaller(box)
    return scene.with_thing(edit.of, boxes=tuple(boxes))


def _set_count(scene: Scene, edit: SetCount) -> Scene:
    thing, others = scene.things[edit.of], _others(scene, edit.of)
    if not 1 <= edit.count <= MAX_OBJECTS - len(others):
        raise NotPossibleError(refusals.TOO_MANY_BESIDE, count=edit.count, others=len(others), most=MAX_OBJECTS)
    if not others:
        return scene.with_thing(edit.of, boxes=layout.together(edit.count))
    boxes = list(thing.boxes[: edit.count])
    try:
        while len(boxes) < edit.count:
            boxes.append(layout.find_room(others + boxes))
    except NotPossibleError:  # none beside those that are there: all of them anew
        boxes = []
        while len(boxes) < edit.count:
            boxes.append(layout.find_room(others + boxes, sides=(SMALL,)))
    return scene.with_thing(edit.of, boxes=tuple(boxes))


_CHANGES = {
    SetBackground: lambda scene, edit: replace(scene, background=edit.background),
    Add: _add,
    Remove: _remove,
    Replace: _replace,
    Move: _move,
    Resize: _resize,
    SetCount: _set_count,
    Recolour: lambda scene, edit: scene.with_thing(edit.of, colour=edit.colour),
    Redraw: lambda scene, edit: scene,
}
