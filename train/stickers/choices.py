"""Choices that a caption leaves open, as intervals of [0, 1): the arrangement, and the variant of the background.

The options of a choice tile [0, 1) with their probabilities, so that a uniform number takes one of them.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

from dianjing.train.stickers.backgrounds import NUM_VARIANTS
from dianjing.train.stickers.scenes import CANVAS_PX, GROUP_CENTERS, PAIR_CENTERS, StickerScene

Interval = tuple[float, float]
Centers = Sequence[tuple[float, float]]  # (x, y) of each object, in unit coordinates

NUM_CHOICES = 2
UNIT_INTERVAL = (0.0, 1.0)


def list_choice_intervals(scene: StickerScene) -> tuple[Interval, ...]:
    """List the intervals of what a scene shows: of its arrangement, and of the variant of its background.

    [0, 1) for a scene that is not canonical: noise cannot decide where its objects are.
    """
    if not scene.is_canonical:
        return (UNIT_INTERVAL,) * NUM_CHOICES
    variant = scene.variant
    return _get_arrangement_interval(scene), (variant / NUM_VARIANTS, (variant + 1) / NUM_VARIANTS)


def _get_arrangement_interval(scene: StickerScene) -> Interval:
    """The interval of the arrangement that is nearest to a scene's; [0, 1) if the caption leaves none open."""
    if scene.relation is not None:
        return UNIT_INTERVAL
    options = PAIR_CENTERS if scene.scene_type == "pair" else GROUP_CENTERS.get(len(scene.instances), ())
    placements = [placement for centers in options for placement in permutations(centers)]
    if not placements:
        return UNIT_INTERVAL
    centers = [
        ((each.x_px + each.size_px / 2) / CANVAS_PX, (each.y_px + each.size_px / 2) / CANVAS_PX)
        for each in scene.instances
    ]
    nearest = min(placements, key=lambda placement: _squared_distance(centers, placement))
    counts = Counter(_make_arrangement(scene, placement) for placement in placements)
    arrangements = list(counts)
    index = arrangements.index(_make_arrangement(scene, nearest))
    start = sum(counts[each] for each in arrangements[:index])
    return start / len(placements), (start + counts[arrangements[index]]) / len(placements)


def _squared_distance(centers: Centers, others: Centers) -> float:
    return sum((x - u) ** 2 + (y - v) ** 2 for (x, y), (u, v) in zip(centers, others, strict=True))


def _make_arrangement(scene: StickerScene, placement: Centers) -> frozenset[object]:
    """Objects with their places; two of one class and colour may change theirs."""
    return frozenset(
        (each.class_id, each.colour, place) for each, place in zip(scene.instances, placement, strict=True)
    )
