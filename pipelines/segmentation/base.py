"""Points, regions and the interface of segmenters, checked without weights.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
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
    """A point prompt in px of the image; a negative one marks what the mask must leave out."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """Part of an image that should move: given by points in px or by a mask, bool (H, W) of the image.

    motion: a short phrase such as "jump" or 翅膀拍动. strength: from 0 (hardly) to 1 (as far as the model was trained).
    Raises: ValueError for an empty motion, a strength outside 0 to 1, and unless one of points and mask is given.
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
    """Describe a region for generation metadata, as JSON values."""
    points = [vars(point) for point in region.points]
    return {"motion": region.motion, "strength": region.strength, "points": points}


def check_region(region: Region, *, size: tuple[int, int]) -> None:
    """Raise ValueError for points or a mask that do not fit an image of (width, height) px."""
    if region.mask is None:
        check_points(region.points, width=size[0], height=size[1])
    else:
        check_mask(region.mask, size=size)


def check_mask(mask: object, *, size: tuple[int, int]) -> None:
    """Raise ValueError for a mask that is not of the image's (width, height), is empty, or covers all of it."""
    width, height = size
    mask = np.asarray(mask)
    if mask.shape != (height, width):
        raise ValueError(f"a mask has shape {mask.shape}; the picture needs ({height}, {width})")
    if not mask.astype(bool).any():
        raise ValueError("a mask is empty; mark what should move")
    if mask.astype(bool).all():
        raise ValueError("a mask covers the whole picture; mark what should move")


class Segmenter(Protocol):
    """Interface of a segmenter: one image, then any number of predictions from points (SAM's terms)."""

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points."""
        ...


def check_points(points: Sequence[Point], *, width: int, height: int) -> list[Point]:
    """Check points against an image of width x height px.

    Raises: ValueError for no points, too many, one outside the image, or negative ones alone.
    """
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
