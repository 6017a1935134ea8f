"""Placement of two moving subjects in an image, so that each has room for its motion.

Positions and extents are in image sides, x to the right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_MOTION_STRENGTH = 0.7  # of motions in a text-to-video prompt
OBJECT_MARGIN = 0.2  # minimum distance of an object's centre from the edge
ZERO_EXTENT = (0.0, 0.0, 0.0, 0.0)
MotionExtent = tuple[float, float, float, float]  # to the left, up, to the right, down


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Centres of two subjects, and the templates of prompts that place them there."""

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
    """Choose the placement with the most room to the edges for both motions; among equals, the least overlap."""
    return max(
        PLACEMENTS,
        key=lambda placement: tuple(
            min(
                _get_free_fraction(placement, index, extent, allow_overlap=allow_overlap)
                for index, extent in enumerate(extents)
            )
            for allow_overlap in (True, False)
        ),
    )


def _get_free_fraction(placement: Placement, index: int, extent: MotionExtent, *, allow_overlap: bool) -> float:
    """Fraction of its extent that a subject can move, at most 1; towards the other one only if they may overlap."""
    (x, y), (other_x, other_y) = placement.centers[index], placement.centers[1 - index]
    is_towards_other = (other_x < x, other_y < y, other_x > x, other_y > y)
    free = (x - OBJECT_MARGIN, y - OBJECT_MARGIN, 1 - OBJECT_MARGIN - x, 1 - OBJECT_MARGIN - y)
    fractions = [
        (space if allow_overlap or not is_blocked else 0.0) / (DEFAULT_MOTION_STRENGTH * distance)
        for distance, space, is_blocked in zip(extent, free, is_towards_other, strict=True)
        if distance
    ]
    return min([1.0, *fractions])
