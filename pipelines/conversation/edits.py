"""Edits of a scene, one dataclass each, and the pure functions that apply them.

`target` and `anchor` are indices of `Scene.objects`; `position` is one of POSITIONS, `relation` one of RELATIONS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dianjing.pipelines.conversation import layout
from dianjing.pipelines.conversation.errors import EditError
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
    """Specification of an object to add. name, colour: English. size: "big", "small" or None for the default."""

    name: str
    count: int = 1
    colour: str | None = None
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewScene:
    """Start a new scene. relation: where the first of two objects stands, seen from the second."""

    specs: tuple[ObjectSpec, ...]
    background: str | None = None
    relation: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetBackground:
    """Replace the background. background: English."""

    background: str


@dataclass(frozen=True, kw_only=True)
class AddObject:
    """Add objects. relation: where they go, seen from the object `anchor`; both or neither are given."""

    spec: ObjectSpec
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class RemoveObject:
    """Remove an object with all its instances."""

    target: int


@dataclass(frozen=True, kw_only=True)
class ReplaceObject:
    """Replace an object by another one at the same boxes."""

    target: int
    spec: ObjectSpec


@dataclass(frozen=True, kw_only=True)
class MoveObject:
    """Move an object to a position, or to a side of the object `anchor`."""

    target: int
    position: str | None = None
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResizeObject:
    """Change the size of an object by one step. direction: "bigger" or "smaller"."""

    target: int
    direction: str


@dataclass(frozen=True, kw_only=True)
class SetObjectCount:
    """Set the number of instances of an object."""

    target: int
    count: int


@dataclass(frozen=True, kw_only=True)
class RecolourObject:
    """Change the colour of an object. colour: English."""

    target: int
    colour: str


@dataclass(frozen=True, kw_only=True)
class Regenerate:
    """Generate the same scene from the next seed."""


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Return to the previous image."""


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
    """Apply an edit (any but `Undo`) to a scene and return the new scene; None is the scene before the first image.

    Raises: EditError if there is no room for the result, or no image yet.
    """
    if isinstance(edit, NewScene):
        return _apply_new_scene(edit)
    if scene is None:
        raise EditError("no_image_yet")
    return _APPLY_FUNCTIONS[type(edit)](scene, edit)


def _apply_new_scene(edit: NewScene) -> Scene:
    counts = [spec.count for spec in edit.specs]
    if not 1 <= len(counts) <= MAX_SCENE_OBJECTS or sum(counts) > MAX_INSTANCES or min(counts) < 1:
        raise EditError("invalid_object_count", max_objects=MAX_SCENE_OBJECTS, max_count=MAX_INSTANCES)
    if edit.relation is not None and counts == [1, 1]:
        boxes: list[Box] = list(layout.make_adjacent_boxes(edit.relation))
    elif any(spec.position is not None for spec in edit.specs):
        boxes = _place_objects(edit.specs)
    else:
        boxes = list(layout.make_group_boxes(sum(counts)))
    objects = []
    for spec in edit.specs:
        object_boxes, boxes = boxes[: spec.count], boxes[spec.count :]
        resized = tuple(_apply_size(box, spec) for box in object_boxes)
        objects.append(SceneObject(name=spec.name, colour=spec.colour, boxes=resized))
    antecedent = 0 if edit.relation else len(objects) - 1
    return Scene(objects=tuple(objects), background=edit.background, antecedent=antecedent)


def _place_objects(specs: Sequence[ObjectSpec]) -> list[Box]:
    boxes: dict[int, list[Box]] = {}
    for index in sorted(range(len(specs)), key=lambda i: specs[i].position is None):
        for _ in range(specs[index].count):
            occupied = [box for group in boxes.values() for box in group]
            boxes.setdefault(index, []).append(layout.find_free_box(occupied, position=specs[index].position))
    return [box for index in range(len(specs)) for box in boxes[index]]


def _apply_size(box: Box, spec: ObjectSpec) -> Box:
    side = {"big": box.side + 2, "small": SMALL_SIDE, None: box.side}[spec.size]
    if side < box.side and spec.position is not None:
        return layout.get_position_box(spec.position, side=side)
    return layout.resize_box(box, side=min(side, MAX_SIDE))


def _apply_add(scene: Scene, edit: AddObject) -> Scene:
    spec = edit.spec
    same = next(
        (i for i, each in enumerate(scene.objects) if (each.name, each.colour) == (spec.name, spec.colour)), None
    )
    if len(scene.boxes) + spec.count > MAX_INSTANCES:
        raise EditError("too_many_instances", count=len(scene.boxes), max_count=MAX_INSTANCES)
    if same is None and len(scene.objects) == MAX_SCENE_OBJECTS:
        raise EditError("too_many_objects", count=MAX_SCENE_OBJECTS)
    anchor = None if edit.anchor is None else scene.objects[edit.anchor].boxes[0]
    boxes = list(scene.boxes)
    sides = (SMALL_SIDE,) if spec.size == "small" else (DEFAULT_SIDE, SMALL_SIDE)
    for _ in range(spec.count):
        box = layout.find_free_box(boxes, position=spec.position, anchor=anchor, relation=edit.relation, sides=sides)
        boxes.append(layout.enlarge_box(box, boxes) if spec.size == "big" else box)
    new_boxes = tuple(boxes[len(scene.boxes) :])
    if same is not None:
        return scene.with_object(same, boxes=scene.objects[same].boxes + new_boxes)
    objects = (*scene.objects, SceneObject(name=spec.name, colour=spec.colour, boxes=new_boxes))
    return replace(scene, objects=objects, antecedent=len(objects) - 1)


def _apply_remove(scene: Scene, edit: RemoveObject) -> Scene:
    if len(scene.objects) == 1:
        raise EditError("empty_scene")
    return scene.without_object(edit.target)


def _apply_replace(scene: Scene, edit: ReplaceObject) -> Scene:
    spec = edit.spec
    scene = scene.with_object(edit.target, name=spec.name, colour=spec.colour)
    if spec.count != scene.objects[edit.target].count:
        scene = _apply_set_count(scene, SetObjectCount(target=edit.target, count=spec.count))
    if spec.size is None:
        return scene
    direction = "bigger" if spec.size == "big" else "smaller"
    return _apply_resize(scene, ResizeObject(target=edit.target, direction=direction))


def _get_other_boxes(scene: Scene, target: int) -> list[Box]:
    return [box for index, each in enumerate(scene.objects) if index != target for box in each.boxes]


def _apply_move(scene: Scene, edit: MoveObject) -> Scene:
    occupied = _get_other_boxes(scene, edit.target)
    boxes: list[Box] = []
    anchor = None if edit.anchor is None else scene.objects[edit.anchor].boxes[0]
    try:
        for box in scene.objects[edit.target].boxes:
            sides = list(range(box.side, SMALL_SIDE - 1, -1)) or [box.side]
            boxes.append(
                layout.find_free_box(
                    [*occupied, *boxes], position=edit.position, anchor=anchor, relation=edit.relation, sides=sides
                )
            )
    except EditError:
        if edit.anchor is None or edit.relation is None or len(scene.boxes) != 2:
            raise
        first, second = layout.make_adjacent_boxes(edit.relation)  # only two boxes: both may move
        scene = scene.with_object(edit.anchor, boxes=(second,))
        boxes = [first]
    return scene.with_object(edit.target, boxes=tuple(boxes))


def _apply_resize(scene: Scene, edit: ResizeObject) -> Scene:
    boxes: list[Box] = list(scene.objects[edit.target].boxes)
    for index, box in enumerate(boxes):
        occupied = _get_other_boxes(scene, edit.target) + boxes[:index] + boxes[index + 1 :]
        boxes[index] = layout.enlarge_box(box, occupied) if edit.direction == "bigger" else layout.shrink_box(box)
    return scene.with_object(edit.target, boxes=tuple(boxes))


def _apply_set_count(scene: Scene, edit: SetObjectCount) -> Scene:
    others = _get_other_boxes(scene, edit.target)
    if not 1 <= edit.count <= MAX_INSTANCES - len(others):
        raise EditError("count_does_not_fit", count=edit.count, others=len(others), max_count=MAX_INSTANCES)
    if not others:
        return scene.with_object(edit.target, boxes=layout.make_group_boxes(edit.count))
    boxes = list(scene.objects[edit.target].boxes[: edit.count])
    try:
        while len(boxes) < edit.count:
            boxes.append(layout.find_free_box(others + boxes))
    except EditError:  # no room beside the present boxes: place all of them again, small
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
