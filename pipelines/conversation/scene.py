"""What the picture of a conversation shows: a background and objects, each with its boxes.

Boxes are counted in GRID-ths of the picture's width and height.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dianjing.pipelines.validation import check_int, check_prompt

GRID_SIZE = 8
DEFAULT_SIDE, SMALL_SIDE, MIN_SIDE, MAX_SIDE = (
    4,
    3,
    2,
    7,
)  # sides of boxes; TINY only where a small one is to be smaller still
MAX_SCENE_OBJECTS, MAX_INSTANCES = 3, 4
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
RELATIONS = ("left", "right", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A square of the grid by its top left corner."""

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
        """The one of PLACES that holds the centre."""
        column, row = (int(value * 3 / GRID_SIZE) for value in self.center)
        return POSITIONS[3 * row + column]

    def count_shared_cells(self, other: "Box") -> int:
        """Cells in both."""
        across = min(self.x + self.side, other.x + other.side) - max(self.x, other.x)
        along = min(self.y + self.side, other.y + other.side) - max(self.y, other.y)
        return max(across, 0) * max(along, 0)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One kind of object in the picture, as often as it has boxes. name, colour: English."""

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
    """background: English, None where nothing was said of it. focus: which of the things "it" is."""

    objects: tuple[SceneObject, ...]
    background: str | None = None
    antecedent: int = 0

    def __post_init__(self) -> None:
        if self.background is not None:
            check_prompt(self.background, "the background")
        check_int(len(self.objects), "the number of things in a scene", low=1, high=MAX_SCENE_OBJECTS)
        check_int(len(self.boxes), "the number of objects in a scene", low=1, high=MAX_INSTANCES)
        check_int(self.antecedent, "antecedent", low=0, high=len(self.objects) - 1)

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(box for thing in self.objects for box in thing.boxes)

    def with_object(self, index: int, **changes: Any) -> "Scene":
        """The scene with one thing changed, which "it" now is."""
        changed = replace(self.objects[index], **changes)
        return replace(self, objects=(*self.objects[:index], changed, *self.objects[index + 1 :]), antecedent=index)

    def without_object(self, index: int) -> "Scene":
        """The scene with one thing left out; "it" is the last of the others."""
        left = (*self.objects[:index], *self.objects[index + 1 :])
        return replace(self, objects=left, antecedent=len(left) - 1)


def serialize_scene(scene: Scene) -> dict[str, Any]:
    return asdict(scene)


def deserialize_scene(content: Any) -> Scene:
    """The inverse of `to_json`. Raises ValueError, TypeError or KeyError for anything else."""
    if not isinstance(content, Mapping):
        raise TypeError(f"a scene is of type {type(content).__name__}; it should be an object")
    things = tuple(
        SceneObject(name=thing["name"], colour=thing["colour"], boxes=tuple(Box(**box) for box in thing["boxes"]))
        for thing in content["objects"]
    )
    return Scene(objects=things, background=content["background"], antecedent=content["antecedent"])
