"""Scene of a conversation's image: a background and objects, each with one box an instance.

Boxes lie on a grid of GRID_SIZE x GRID_SIZE cells over the image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dianjing.errors import DianjingError
from dianjing.pipelines.validation import check_int, check_prompt

GRID_SIZE = 8
DEFAULT_SIDE, SMALL_SIDE, MAX_SIDE = 4, 3, 7  # sides of boxes, in cells
MIN_SIDE = 2  # only of an object that was small and is made smaller
MAX_SCENE_OBJECTS, MAX_INSTANCES = 3, 4
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
RELATIONS = ("left", "right", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A square of `side` cells with its top left corner at (x, y)."""

    x: int
    y: int
    side: int

    def __post_init__(self) -> None:
        check_int(self.side, "the side of a box", low=1, high=GRID_SIZE)
        for name in ("x", "y"):
            check_int(getattr(self, name), f"{name} of a box", low=0, high=GRID_SIZE - self.side)

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.side / 2, self.y + self.side / 2

    @property
    def position(self) -> str:
        """The one of POSITIONS that holds the center."""
        column, row = (int(value * 3 / GRID_SIZE) for value in self.center)
        return POSITIONS[3 * row + column]

    def count_shared_cells(self, other: "Box") -> int:
        """Return the number of cells that lie in both boxes."""
        across = min(self.x + self.side, other.x + other.side) - max(self.x, other.x)
        along = min(self.y + self.side, other.y + other.side) - max(self.y, other.y)
        return max(across, 0) * max(along, 0)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One kind of object in the image, with one box for each instance. name, colour: English."""

    name: str
    boxes: tuple[Box, ...]
    colour: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.name, "the name of an object")
        if self.colour is not None:
            check_prompt(self.colour, "the colour of an object")
        check_int(len(self.boxes), "the number of boxes of an object", low=1, high=MAX_INSTANCES)

    @property
    def count(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Background and objects of an image.

    background: English, None if it was never mentioned. antecedent: index of the object that "it" refers to.
    """

    objects: tuple[SceneObject, ...]
    background: str | None = None
    antecedent: int = 0

    def __post_init__(self) -> None:
        if self.background is not None:
            check_prompt(self.background, "the background")
        check_int(len(self.objects), "the number of kinds of objects in a scene", low=1, high=MAX_SCENE_OBJECTS)
        check_int(len(self.boxes), "the number of objects in a scene", low=1, high=MAX_INSTANCES)
        check_int(self.antecedent, "antecedent", low=0, high=len(self.objects) - 1)

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(box for each in self.objects for box in each.boxes)

    def with_object(self, index: int, **changes: Any) -> "Scene":
        """Return the scene with fields of one object changed; the object becomes the antecedent of "it"."""
        changed = replace(self.objects[index], **changes)
        return replace(self, objects=(*self.objects[:index], changed, *self.objects[index + 1 :]), antecedent=index)

    def without_object(self, index: int) -> "Scene":
        """Return the scene without one object; the last of the others becomes the antecedent of "it"."""
        others = (*self.objects[:index], *self.objects[index + 1 :])
        return replace(self, objects=others, antecedent=len(others) - 1)


def serialize_scene(scene: Scene) -> dict[str, Any]:
    """Convert a scene to values for JSON."""
    return asdict(scene)


def deserialize_scene(content: Any) -> Scene:
    """Convert values from JSON back to a scene. Raises: DianjingError, TypeError or KeyError."""
    if not isinstance(content, Mapping):
        raise DianjingError("content_field_not_object", name="scene", type=type(content).__name__)
    objects = tuple(
        SceneObject(name=each["name"], colour=each["colour"], boxes=tuple(Box(**box) for box in each["boxes"]))
        for each in content["objects"]
    )
    return Scene(objects=objects, background=content["background"], antecedent=content["antecedent"])
