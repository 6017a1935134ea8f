"""What should move in a picture, and how; checked without weights.

H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import numpy as np

from dianjing.pipelines import validation

MAX_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click in pixels of the picture; a negative one says what is not meant."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """What should move, and how. Either points in pixels of the picture, or a mask: bool (H, W) of the picture.

    motion: a short phrase such as "jump" or 翅膀拍动. strength: 0 (hardly) to 1 (as far as the model was taught).
    """

    motion: str
    points: Sequence[Point] = ()
    mask: np.ndarray | None = None
    strength: float = 0.5

    def __post_init__(self) -> None:
        validation.check_prompt(self.motion, "motion")
        if isinstance(self.strength, bool) or not isinstance(self.strength, Real) or not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength!r}; give a number from 0 to 1")
        if (self.mask is None) == (not self.points):
            raise ValueError(f"the region of {self.motion!r} needs points or a mask, one of the two")


def get_region_metadata(region: Region) -> dict[str, object]:
    """What a record keeps of a region."""
    points = [vars(point) for point in region.points]
    return {"motion": region.motion, "strength": region.strength, "points": points}


def check_region(region: Region, *, size: tuple[int, int]) -> None:
    """Raise ValueError for points or a mask that do not fit a picture of (width, height)."""
    if region.mask is None:
        check_points(region.points, width=size[0], height=size[1])
    else:
        check_mask(region.mask, size=size)


def check_mask(mask: object, *, size: tuple[int, int]) -> None:
    """A region of the picture: neither empty nor all of it."""
    width, height = size
    mask = np.asarray(mask)
    if mask.shape != (height, width):
        raise ValueError(f"a mask has shape {mask.shape}; the picture needs ({height}, {width})")
    if not mask.astype(bool).any():
        raise ValueError("a mask is empty; mark what should move")
    if mask.astype(bool).all():
        raise ValueError("a mask covers the whole picture; mark what should move")


class Segmenter(Protocol):
    """Looks at a picture once, then answers any number of clicks."""

    def set_image(self, image: np.ndarray) -> None: ...

    def predict(self, points: Sequence[Point]) -> np.ndarray: ...


def check_points(points: Sequence[Point], *, width: int, height: int) -> list[Point]:
    """Return the points; raise ValueError that says what was given, what is allowed and what to do."""
    if not points:
        raise ValueError("no click is given; click on what should move")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points):,} clicks; at most {MAX_POINTS:,} are taken")
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise ValueError(f"a click at ({point.x}, {point.y}) is no place; give pixels")
        if not (0 <= point.x < width and 0 <= point.y < height):
            raise ValueError(
                f"a click at ({point.x:g}, {point.y:g}) is outside the picture of {width} x {height} px; "
                f"x runs from 0 to {width - 1}, y from 0 to {height - 1}"
            )
    if not any(point.positive for point in points):
        raise ValueError("all clicks are negative; at least one must say what is meant")
    return list(points)
