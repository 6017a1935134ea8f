"""What the picture of a conversation shows: a background and objects, each with its boxes.

Boxes are counted in GRID-ths of the picture's width and height.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dianjing.pipelines.request import check_prompt, check_whole

GRID = 8
USUAL, SMALL, TINY, LARGEST = 4, 3, 2, 7  # sides of boxes; TINY only where a small one is to be smaller still
MAX_KINDS, MAX_OBJECTS = 3, 4
PLACES = (
    "top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A square of the grid by its top left corner."""

    x: int
    y: int
    side: int

    def __post_init__(self) -> None:
        check_whole(self.side, "the side of a box", low=1, high=GRID)
        for name in ("x", "y"):
            check_whole(getattr(self, name), f"{name} of a box", low=0, high=GRID - self.side)

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.side / 2, self.y + self.side / 2

    @property
    def place(self) -> str:
        """The one of PLACES that holds the centre."""
        column, row = (int(value * 3 / GRID) for value in self.centre)
        return PLACES[3 * row + column]

    def overlap(self, other: "Box") -> int:
        """Cells in both."""
        across = min(self.x + self.side, other.x + other.side) - max(self.x, other.x)
        along = min(self.y + self.side, other.y + other.side) - max(self.y, other.y)
        return max(across, 0) * max(along, 0)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One kind of object in the picture, as often as it has boxes. name, colour: English."""

    name: str
    boxes: tuple[Box, ...]
    colour: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.name, "the name of an object")
        if self.colour is not None:
            check_prompt(self.colour, "the colour of an object")
        check_whole(len(self.boxes), "the number of boxes of an object", low=1, high=MAX_OBJECTS)

    @property
    def count(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """background: English, None where nothing was said of it. focus: which of the things "it" is."""

    things: tuple[Thing, ...]
    background: str | None = None
    focus: int = 0

    def __post_init__(self) -> None:
        if self.background is not None:
            check_prompt(self.background, "the background")
        check_whole(len(self.things), "the number of things in a scene", low=1, high=MAX_KINDS)
        check_whole(len(self.boxes), "the number of objects in a scene", low=1, high=MAX_OBJECTS)
        check_whole(self.focus, "focus", low=0, high=len(self.things) - 1)

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(box for thing in self.things for box in thing.boxes)

    def with_thing(self, index: int, **changes: Any) -> "Scene":
        """The scene with one thing changed, which "it" now is."""
        changed = replace(self.things[index], **changes)
        return replace(self, things=(*self.things[:index], changed, *self.things[index + 1 :]), focus=index)

    def without(self, index: int) -> "Scene":
        """The scene with one thing left out; "it" is the last of the others."""
        left = (*self.things[:index], *self.things[index + 1 :])
        return replace(self, things=left, focus=len(left) - 1)


def to_json(scene: Scene) -> dict[str, Any]:
    return asdict(scene)


def from_json(given: Any) -> Scene:
    """The inverse of `to_json`. Raises ValueError, TypeError or KeyError for anything else."""
    if not isinstance(given, Mapping):
        raise TypeError(f"a scene is of type {type(given).__name__}; it should be an object")
    things = tuple(
        Thing(name=thing["name"], colour=thing["colour"], boxes=tuple(Box(**box) for box in thing["boxes"]))
        for thing in given["things"]
    )
    return Scene(things=things, background=given["background"], focus=given["focus"])
