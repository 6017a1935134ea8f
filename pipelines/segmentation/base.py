"""Points, regions and the interface of segmenters, checked without weights.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dianjing.errors import DianjingError, Message
from dianjing.pipelines import validation
from dianjing.pipelines.media.mask import check_mask, to_mask
from dianjing.pipelines.media.metadata import compute_pixels_sha256

MAX_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point prompt in px of the image; a negative one marks what the mask must leave out."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """Part of an image that should move: given by points in px or by a mask of the size of the image.

    motion: a short phrase such as "jump" or 翅膀拍动. mask: what `to_mask` takes, white where it should move; kept as
    bool (H, W). strength: from 0 (hardly) to 1 (as far as the model was trained).
    Raises: DianjingError for an empty motion, a strength outside 0 to 1, a mask that is none, and unless one of points
    and mask is given.
    """

    motion: str
    points: Sequence[Point] = ()
    mask: np.ndarray | None = None
    strength: float = 0.5

    def __post_init__(self) -> None:
        validation.check_prompt(self.motion, "motion")
        validation.check_number(self.strength, "strength", low=0, high=1)
        if (self.mask is None) == (not self.points):
            raise DianjingError("region_points_or_mask", motion=self.motion)
        if self.mask is not None:
            object.__setattr__(self, "mask", to_mask(self.mask, name=Message("mask_of_region", motion=self.motion)))


def get_region_metadata(region: Region) -> dict[str, object]:
    """Describe a region for generation metadata, as JSON values; a mask by its size and a hash of its pixels."""
    common = {"motion": region.motion, "strength": region.strength}
    if region.mask is None:
        return {**common, "points": [vars(point) for point in region.points]}
    mask = region.mask.astype(np.uint8) * 255
    pixels_sha256 = compute_pixels_sha256(mask)
    return {**common, "mask": {"width": mask.shape[1], "height": mask.shape[0], "pixels_sha256": pixels_sha256}}


def check_region(region: Region, *, size: tuple[int, int]) -> None:
    """Raise DianjingError for points or a mask that do not fit an image of (width, height) px."""
    if region.mask is None:
        check_points(region.points, width=size[0], height=size[1])
    else:
        check_mask(region.mask, size=size, name=Message("mask_of_region", motion=region.motion))


class Segmenter(Protocol):
    """Interface of a segmenter: one image, then any number of predictions from points (SAM's terms)."""

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points."""
        ...


def check_points(points: Sequence[Point], *, width: int, height: int) -> list[Point]:
    """Check points against an image of width x height px.

    Raises: DianjingError for no points, too many, one outside the image, or negative ones alone.
    """
    if not points:
        raise DianjingError("points_missing")
    if len(points) > MAX_POINTS:
        raise DianjingError("too_many_points", count=f"{len(points):,}", maximum=f"{MAX_POINTS:,}")
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise DianjingError("point_not_finite", x=point.x, y=point.y)
        if not (0 <= point.x < width and 0 <= point.y < height):
            raise DianjingError(
                "point_outside_image",
                x=f"{point.x:g}",
                y=f"{point.y:g}",
                width=width,
                height=height,
                max_x=width - 1,
                max_y=height - 1,
            )
    if not any(point.positive for point in points):
        raise DianjingError("points_all_negative")
    return list(points)
