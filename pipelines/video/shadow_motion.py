"""Shadows of objects that move: each stays on the ground below its object.

F frames, H height, W width; masks are bool (H, W). Points are (x, y) in px of the image, y down.
"""

from dataclasses import dataclass

import numpy as np

from dianjing.pipelines.video.image_warp import XY, RegionMotion
from dianjing.pipelines.video.motion_path import MAX_SCALE, MIN_SCALE, Similarity

# search of the point that a motion takes to a given one: on a grid of so many points a side, ever finer
SEARCH_POINTS, NUM_SEARCH_ROUNDS = 17, 6
STENCIL_FRACTION = 0.25  # of the root of an object's area: distance of the points between which its growth is measured
FADING_HEIGHT = 1.0  # of the same: at this height above the ground half of a shadow is left


@dataclass(frozen=True, kw_only=True)
class ShadowMotion:
    """The motion of a shadow, and how much of it is left in each frame, from 0 to 1."""

    motion: RegionMotion
    strengths: tuple[float, ...]


def cast_shadow(motion: RegionMotion, mask: np.ndarray) -> ShadowMotion:
    """The motion of the shadow of an object that moves: it follows to the sides, grows with it, and never turns.

    The ground is as high as the object was lowest so far: what goes down takes its shadow along, and what goes up
    leaves it there, ever fainter.
    """
    size = (mask.shape[1], mask.shape[0])
    center, extent = find_box_center(mask), float(mask.sum()) ** 0.5
    num_frames = len(motion.similarities)
    positions = [follow_point(motion, center, index, size=size) for index in range(num_frames)]
    x, y = np.array(positions).T
    ground = np.maximum.accumulate(y)
    scales = [
        _measure_growth(motion, position, index, step=STENCIL_FRACTION * extent, size=size)
        for index, position in enumerate(positions)
    ]
    similarities = [
        Similarity(dx=float(dx), dy=float(dy), scale=scale)
        for dx, dy, scale in zip(x - center[0], ground - center[1], scales, strict=True)
    ]
    strengths = 1 / (1 + (ground - y) / (FADING_HEIGHT * extent))
    return ShadowMotion(
        motion=RegionMotion(similarities=similarities, pivot=center), strengths=tuple(map(float, strengths))
    )


def find_box_center(mask: np.ndarray) -> XY:
    """The middle of a mask's box, about which objects appear to rotate."""
    (top, bottom), (left, right) = (np.nonzero(mask.any(axis=axis))[0][[0, -1]] for axis in (1, 0))
    return (left + right + 1) / 2, (top + bottom + 1) / 2


def follow_point(motion: RegionMotion, point: XY, frame_index: int, *, size: tuple[int, int]) -> XY:
    """Find where a motion takes a point of the image, of (width, height) px, in a frame."""
    x, y = point
    reach = float(max(size))
    for _ in range(NUM_SEARCH_ROUNDS):
        steps = np.linspace(-reach, reach, SEARCH_POINTS)
        near_x, near_y = np.meshgrid(x + steps, y + steps)
        origin_x, origin_y = motion.map_backward(near_x, near_y, frame_index, size=size)
        best = np.hypot(origin_x - point[0], origin_y - point[1]).argmin()
        x, y = float(near_x.flat[best]), float(near_y.flat[best])
        reach *= 3 / (SEARCH_POINTS - 1)
    return x, y


def _measure_growth(
    motion: RegionMotion, position: XY, frame_index: int, *, step: float, size: tuple[int, int]
) -> float:
    """How large an object is in a frame, relative to the image: the root of the area that its middle takes up."""
    x = position[0] + step * np.array([[1, -1, 0, 0]])
    y = position[1] + step * np.array([[0, 0, 1, -1]])
    from_x, from_y = (part[0] for part in motion.map_backward(x, y, frame_index, size=size))
    area = (from_x[0] - from_x[1]) * (from_y[2] - from_y[3]) - (from_x[2] - from_x[3]) * (from_y[0] - from_y[1])
    return float(np.clip((abs(area) / (2 * step) ** 2 + 1e-9) ** -0.5, MIN_SCALE, MAX_SCALE))
