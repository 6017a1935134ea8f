"""The kinds of change a turn can make, and the pure functions that make them.

`of` and `anchor` are indices of a scene's things.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dianjing.pipelines.conversation import layout, messages
from dianjing.pipelines.conversation.messages import EditError
from dianjing.pipelines.conversation.scene import (
    DEFAULT_SIDE,
    MAX_INSTANCES,
    MAX_SCENE_OBJECTS,
    MAX_SIDE,
    SMALL_SIDE,
    Box,
    Scene,
    SceneObject,
)


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """An object that is asked for. size: "big" or "small"; place: one of PLACES."""

    name: str
    count: int = 1
    colour: str | None = None
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewScene:
    """A picture from nothing. relation: the side of the second object that the first is on."""

    specs: tuple[ObjectSpec, ...]
    background: str | None = None
    relation: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetBackground:
    background: str


@dataclass(frozen=True, kw_only=True)
class AddObject:
    """relation: the side of `anchor` that it goes to."""

    spec: ObjectSpec
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class RemoveObject:
    target: int


@dataclass(frozen=True, kw_only=True)
class ReplaceObject:
    target: int
    spec: ObjectSpec


@dataclass(frozen=True, kw_only=True)
class MoveObject:
    """To a place, or to a side of another object."""

    target: int
    position: str | None = None
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResizeObject:
    """to: "bigger" or "smaller"."""

    target: int
    direction: str


@dataclass(frozen=True, kw_only=True)
class SetObjectCount:
    target: int
    count: int


@dataclass(frozen=True, kw_only=True)
class RecolourObject:
    target: int
    colour: str


@dataclass(frozen=True, kw_only=True)
class Regenerate:
    """The same scene from other noise."""


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Back to the picture before."""


Edit = (
    NewScene
    | SetBackground
    | AddObject
    | RemoveObject
    | ReplaceObject
    | MoveObject
    | ResizeObject
    | SetObjectCount
    | RecolourObject
    | Regenerate
    | Undo
)


def apply_edit(scene: Scene | None, edit: Edit) -> Scene:
    """The scene after an edit.

    Raises: NotPossibleError for what there is no room for, or nothing to do it to.
    """
    if isinstance(edit, NewScene):
        return _apply_new_scene(edit)
    if scene is None:
        raise EditError(messages.NO_IMAGE)
    return _APPLY_FUNCTIONS[type(edit)](scene, edit)


def _apply_new_scene(edit: NewScene) -> Scene:
    counts = [wanted.count for wanted in edit.specs]
    if not 1 <= len(counts) <= MAX_SCENE_OBJECTS or sum(counts) > MAX_INSTANCES or min(counts) < 1:
        raise EditError(messages.INVALID_OBJECT_COUNT, kinds=MAX_SCENE_OBJECTS, most=MAX_INSTANCES)
    if edit.relation is not None and counts == [1, 1]:
        boxes: list[Box] = list(layout.make_adjacent_boxes(edit.relation))
    elif any(wanted.position is not None for wanted in edit.specs):
        boxes = _place_objects(edit.specs)
    else:
        boxes = list(layout.make_group_boxes(sum(counts)))
    things = []
    for wanted in edit.specs:
        own, boxes = boxes[: wanted.count], boxes[wanted.count :]
        things.append(
            SceneObject(name=wanted.name, colour=wanted.colour, boxes=tuple(_apply_size(box, wanted) for box in own))
        )
    return Scene(objects=tuple(things), background=edit.background, antecedent=0 if edit.relation else len(things) - 1)


def _place_objects(specs: Sequence[ObjectSpec]) -> list[Box]:
    boxes: dict[int, list[Box]] = {}
    for index in sorted(range(len(specs)), key=lambda i: specs[i].position is None):
        for _ in range(specs[index].count):
            taken = [box for group in boxes.values() for box in group]
            boxes.setdefault(index, []).append(layout.find_free_box(taken, position=specs[index].position))
    return [box for index in range(len(specs)) for box in boxes[index]]


def _apply_size(box: Box, spec: ObjectSpec) -> Box:
    side = {"big": box.side + 2, "small": SMALL_SIDE, None: box.side}[spec.size]
    if side < box.side and spec.position is not None:
        return layout.get_position_box(spec.position, side=side)
    return layout.resize_box(box, side=min(side, MAX_SIDE))


def _apply_add(scene: Scene, edit: AddObject) -> Scene:
    wanted = edit.spec
    same = next((i for i, t in enumerate(scene.objects) if (t.name, t.colour) == (wanted.name, wanted.colour)), None)
    if len(scene.boxes) + wanted.count > MAX_INSTANCES:
        raise EditError(messages.TOO_MANY_INSTANCES, count=len(scene.boxes), most=MAX_INSTANCES)
    if same is None and len(scene.objects) == MAX_SCENE_OBJECTS:
        raise EditError(messages.TOO_MANY_OBJECTS, count=MAX_SCENE_OBJECTS)
    anchor = None if edit.anchor is None else scene.objects[edit.anchor].boxes[0]
    boxes = list(scene.boxes)
    sides = (SMALL_SIDE,) if wanted.size == "small" else (DEFAULT_SIDE, SMALL_SIDE)
    for _ in range(wanted.count):
        box = layout.find_free_box(boxes, position=wanted.position, anchor=anchor, relation=edit.relation, sides=sides)
        boxes.append(layout.enlarge_box(box, boxes) if wanted.size == "big" else box)
    new = tuple(boxes[len(scene.boxes) :])
    if same is not None:
        return scene.with_object(same, boxes=scene.objects[same].boxes + new)
    things = (*scene.objects, SceneObject(name=wanted.name, colour=wanted.colour, boxes=new))
    return replace(scene, objects=things, antecedent=len(things) - 1)


def _apply_remove(scene: Scene, edit: RemoveObject) -> Scene:
    if len(scene.objects) == 1:
        raise EditError(messages.EMPTY_SCENE)
    return scene.without_object(edit.target)


def _apply_replace(scene: Scene, edit: ReplaceObject) -> Scene:
    wanted = edit.spec
    scene = scene.with_object(edit.target, name=wanted.name, colour=wanted.colour)
    if wanted.count != scene.objects[edit.target].count:
        scene = _apply_set_count(scene, SetObjectCount(target=edit.target, count=wanted.count))
    if wanted.size is None:
        return scene
    return _apply_resize(
        scene, ResizeObject(target=edit.target, direction="bigger" if wanted.size == "big" else "smaller")
    )


def _get_other_boxes(scene: Scene, target: int) -> list[Box]:
    return [box for index, thing in enumerate(scene.objects) if index != target for box in thing.boxes]


def _apply_move(scene: Scene, edit: MoveObject) -> Scene:
    thing, taken = scene.objects[edit.target], _get_other_boxes(scene, edit.target)
    boxes: list[Box] = []
    anchor = None if edit.anchor is None else scene.objects[edit.anchor].boxes[0]
    try:
        for box in thing.boxes:
            sides = list(range(box.side, SMALL_SIDE - 1, -1)) or [box.side]
            boxes.append(
                layout.find_free_box(
                    [*taken, *boxes], position=edit.position, anchor=anchor, relation=edit.relation, sides=sides
                )
            )
    except EditError:
        if edit.anchor is None or edit.relation is None or len(scene.boxes) != 2:
            raise
        first, second = layout.make_adjacent_boxes(edit.relation)  # two alone can both make way
        scene = scene.with_object(edit.anchor, boxes=(second,))
        boxes = [first]
    return scene.with_object(edit.target, boxes=tuple(boxes))


def _apply_resize(scene: Scene, edit: ResizeObject) -> Scene:
    boxes: list[Box] = list(scene.objects[edit.target].boxes)
    for index, box in enumerate(boxes):
        taken = _get_other_boxes(scene, edit.target) + boxes[:index] + boxes[index + 1 :]
        boxes[index] = layout.enlarge_box(box, taken) if edit.direction == "bigger" else layout.shrink_box(box)
    return scene.with_object(edit.target, boxes=tuple(boxes))


def _apply_set_count(scene: Scene, edit: SetObjectCount) -> Scene:
    thing, others = scene.objects[edit.target], _get_other_boxes(scene, edit.target)
    if not 1 <= edit.count <= MAX_INSTANCES - len(others):
        raise EditError(messages.COUNT_DOES_NOT_FIT, count=edit.count, others=len(others), most=MAX_INSTANCES)
    if not others:
        return scene.with_object(edit.target, boxes=layout.make_group_boxes(edit.count))
    boxes = list(thing.boxes[: edit.count])
    try:
        while len(boxes) < edit.count:
            boxes.append(layout.find_free_box(others + boxes))
    except EditError:  # none beside those that are there: all of them anew
        boxes = []
        while len(boxes) < edit.count:
            boxes.append(layout.find_free_box(others + boxes, sides=(SMALL_SIDE,)))
    return scene.with_object(edit.target, boxes=tuple(boxes))


_APPLY_FUNCTIONS = {
    SetBackground: lambda scene, edit: replace(scene, background=edit.background),
    AddObject: _apply_add,
    RemoveObject: _apply_remove,
    ReplaceObject: _apply_replace,
    MoveObject: _apply_move,
    ResizeObject: _apply_resize,
    SetObjectCount: _apply_set_count,
    RecolourObject: lambda scene, edit: scene.with_object(edit.target, colour=edit.colour),
    Regenerate: lambda scene, edit: scene,
}
