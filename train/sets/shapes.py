"""Aspect-ratio buckets: which shapes pictures are brought to, and what that costs each of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]  # height and width in pixels, and of films the number of frames


def frames_of(shape: Shape) -> int:
    """1 of pictures."""
    return shape[2] if len(shape) > 2 else 1


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A picture's shape, the share of it that is cut off, and how much it is enlarged."""

    shape: Shape
    cut: float
    scale: float


def shapes(size_px: int, *, multiple_px: int, max_aspect: float) -> list[Shape]:
    """All shapes of about size_px squared pixels with sides in multiples, none longer than max_aspect its width.

    The square comes first.
    """
    side = round(size_px / multiple_px)
    found = [(side, side)]
    for longer in range(side + 1, math.ceil(side * max_aspect) + 1):
        shorter = max(1, round(side * side / longer))
        if longer <= max_aspect * shorter:
            found += [(shorter, longer), (longer, shorter)]
    return [(height * multiple_px, width * multiple_px) for height, width in found]


def nearest(size: tuple[int, int], among: Sequence[Shape]) -> Fitted:
    """The shape whose aspect is nearest to that of a picture of (width, height)."""
    width, height = size
    aspect = math.log(width / height)
    rows, columns = min(among, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))
    scale = max(columns / width, rows / height)
    return Fitted(shape=(rows, columns), cut=1 - rows * columns / (width * height * scale**2), scale=scale)
