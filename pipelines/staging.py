"""Where two things stand in a film's picture, so that each has room for what it does.

Places and ways are in picture sides, x to the right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STRENGTH = 0.7  # of what moves in a film of words
HALF = 0.2  # of an object, the middle part that stays in the picture
NOWHERE = (0.0, 0.0, 0.0, 0.0)

Reach = tuple[float, float, float, float]  # how far a motion goes to the left, up, to the right, down


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The middles of two things, and the words that put them there."""

    middles: tuple[tuple[float, float], tuple[float, float]]
    words_en: str
    words_zh: str


LEFT, RIGHT, TOP, BOTTOM = (0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)
LAYOUTS = (
    Layout(middles=(LEFT, RIGHT), words_en="{} on the left and {} on the right", words_zh="左边是{}，右边是{}"),
    Layout(middles=(RIGHT, LEFT), words_en="{} on the right and {} on the left", words_zh="右边是{}，左边是{}"),
    Layout(middles=(TOP, BOTTOM), words_en="{} at the top and {} at the bottom", words_zh="上面是{}，下面是{}"),
    Layout(middles=(BOTTOM, TOP), words_en="{} at the bottom and {} at the top", words_zh="下面是{}，上面是{}"),
)


def choose_layout(reaches: Sequence[Reach]) -> Layout:
    """The layout in which both have most room to the edges, and of these the one where they meet least."""
    return max(
        LAYOUTS,
        key=lambda layout: tuple(
            min(_room(layout, index, reach, may_meet=may_meet) for index, reach in enumerate(reaches))
            for may_meet in (True, False)
        ),
    )


def _room(layout: Layout, index: int, reach: Reach, *, may_meet: bool) -> float:
    """Which share of its way one of the two can go, at most 1; not towards the other one unless they may meet."""
    (x, y), (other_x, other_y) = layout.middles[index], layout.middles[1 - index]
    ahead = (other_x < x, other_y < y, other_x > x, other_y > y)
    free = (x - HALF, y - HALF, 1 - HALF - x, 1 - HALF - y)
    shares = [
        (space if may_meet or not is_ahead else 0.0) / (STRENGTH * way)
        for way, space, is_ahead in zip(reach, free, ahead, strict=True)
        if way
    ]
    return min([1.0, *shares])
