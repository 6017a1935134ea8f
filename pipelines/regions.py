"""What should move in a picture, and how; checked without weights.

H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from dianjing.pipelines import request
from dianjing.pipelines.segmenting import Point, check_points


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
        request.check_prompt(self.motion, "motion")
        if isinstance(self.strength, bool) or not isinstance(self.strength, Real) or not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength!r}; give a number from 0 to 1")
        if (self.mask is None) == (not self.points):
            raise ValueError(f"the region of {self.motion!r} needs points or a mask, one of the two")


def region_settings(region: Region) -> dict[str, object]:
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
