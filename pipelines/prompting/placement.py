"""Where two things stand in a film's picture, so that each has room for what it does.

Places and ways are in picture sides, x to the right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_MOTION_STRENGTH = 0.7  # of what moves in a film of words
OBJECT_MARGIN = 0.2  # of an object, the middle part that stays in the picture
ZERO_EXTENT = (0.0, 0.0, 0.0, 0.0)
MotionExtent = tuple[float, float, float, float]  # how far a motion goes to the left, up, to the right, down


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The middles of two things, and the words that put them there."""

    centers: tuple[tuple[float, float], tuple[float, float]]
    template_en: str
    template_zh: str


LEFT, RIGHT, TOP, BOTTOM = (0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)
PLACEMENTS = (
    Placement(
        centers=(LEFT, RIGHT), template_en="{} on the left and {} on the right", template_zh="左边是{}，右边是{}"
    ),
    Placement(
        centers=(RIGHT, LEFT), template_en="{} on the right and {} on the left", template_zh="右边是{}，左边是{}"
    ),
    Placement(
        centers=(TOP, BOTTOM), template_en="{} at the top and {} at the bottom", template_zh="上面是{}，下面是{}"
    ),
    Placement(
        centers=(BOTTOM, TOP), template_en="{} at the bottom and {} at the top", template_zh="下面是{}，上面是{}"
    ),
)


def choose_placement(extents: Sequence[MotionExtent]) -> Placement:
    """The layout in which both have most room to the edges, and of these the one where they meet least."""
    return max(
        PLACEMENTS,
        key=lambda layout: tuple(
            min(_get_free_fraction(layout, index, reach, allow_overlap=may_meet) for index, reach in enumerate(extents))
            for may_meet in (True, False)
        ),
    )


def _get_free_fraction(placement: Placement, index: int, extent: MotionExtent, *, allow_overlap: bool) -> float:
    """Which share of its way one of the two can go, at most 1; not towards the other one unless they may meet."""
    (x, y), (other_x, other_y) = placement.centers[index], placement.centers[1 - index]
    ahead = (other_x < x, other_y < y, other_x > x, other_y > y)
    free = (x - OBJECT_MARGIN, y - OBJECT_MARGIN, 1 - OBJECT_MARGIN - x, 1 - OBJECT_MARGIN - y)
    shares = [
        (space if allow_overlap or not is_ahead else 0.0) / (DEFAULT_MOTION_STRENGTH * way)
        for way, space, is_ahead in zip(extent, free, ahead, strict=True)
        if way
    ]
    return min([1.0, *shares])
