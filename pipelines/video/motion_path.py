"""Paths of regions: a smooth curve through points, and the similarity transform of each frame on the way.

F frames; points are (x, y) in px of the image, y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dianjing.errors import DianjingError
from dianjing.pipelines import validation

MAX_PATH_POINTS = 1000
MAX_TURN_DEG = 3600.0
MIN_SCALE, MAX_SCALE = 0.05, 20.0
CURVE_STEPS = 64  # points of the curve between two points of a path
CENTRIPETAL_EXPONENT = 0.5
XY = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Motion of a region at one frame: a rotation and a scaling about a pivot, and then a shift.

    dx, dy: in px. angle: radians, clockwise on the screen. scale: relative to the first frame.
    """

    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    scale: float = 1.0

    def invert_points(
        self, x: np.ndarray, y: np.ndarray, *, pivot: XY, weight: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the frame back to the first one; weight: how much of the motion each of them follows."""
        angle, scale = weight * self.angle, self.scale ** np.asarray(weight)
        c, s = np.cos(angle) / scale, np.sin(angle) / scale
        x, y = x - (pivot[0] + weight * self.dx), y - (pivot[1] + weight * self.dy)
        return pivot[0] + c * x + s * y, pivot[1] + c * y - s * x


def check_path(
    path: Any, *, turn: object, scale: object, times: Any
) -> tuple[tuple[XY, ...] | None, float, float, tuple[float, ...] | None]:
    """Check the parts of a path, and return them as plain numbers.

    Raises: DianjingError for fewer than two points, too many, any that is not finite, a turn or a scale out of range,
    and times that are not one for each point, rising, from 0 to 1.
    """
    turn = validation.check_number(turn, "turn", low=-MAX_TURN_DEG, high=MAX_TURN_DEG)
    scale = validation.check_number(scale, "scale", low=MIN_SCALE, high=MAX_SCALE)
    points = None if path is None else _check_path_points(path)
    if times is None:
        return points, turn, scale, None
    if points is None:
        raise DianjingError("times_without_path")
    if not isinstance(times, Sequence | np.ndarray) or isinstance(times, str) or len(times) != len(points):
        count = len(times) if isinstance(times, Sequence | np.ndarray) else times
        raise DianjingError("path_times_count", count=count, num_points=len(points))
    numbers = tuple(validation.check_number(time, "times", low=0, high=1) for time in times)
    for before, after in pairwise(numbers):
        if after <= before:
            raise DianjingError("path_times_backwards", before=f"{before:g}", after=f"{after:g}")
    return points, turn, scale, numbers


def _check_path_points(path: Any) -> tuple[XY, ...]:
    if not isinstance(path, Sequence | np.ndarray) or isinstance(path, str):
        raise DianjingError("path_malformed", value=validation.format_value(path))
    if len(path) > MAX_PATH_POINTS:
        raise DianjingError("path_too_long", count=f"{len(path):,}", maximum=f"{MAX_PATH_POINTS:,}")
    if len(path) < 2:
        raise DianjingError("path_too_short", count=len(path))
    points = []
    for point in path:
        x, y = (point.x, point.y) if hasattr(point, "x") else _unpack_pair(point)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise DianjingError("point_not_finite", x=x, y=y)
        points.append((float(x), float(y)))
    return tuple(points)


def _unpack_pair(point: Any) -> XY:
    try:
        x, y = point
        return float(x), float(y)
    except (TypeError, ValueError, OverflowError):
        raise DianjingError("path_malformed", value=validation.format_value(point)) from None


def make_similarities(
    *, path: Sequence[XY] | None, turn: float, scale: float, times: Sequence[float] | None, num_frames: int
) -> list[Similarity]:
    """List the motion of a region at each frame (F,): along the path, turning by `turn` degrees, growing by `scale`.

    Without times the pace is the same all along the curve; turn and scale follow the same pace. Before the first of
    the times the region rests at the first point, after the last at the last.
    """
    progress = np.linspace(0, 1, num_frames)
    positions = np.zeros((num_frames, 2))
    if path is not None:
        positions, progress = _follow_curve(np.asarray(path, np.float64), times, progress)
        positions -= np.asarray(path[0], np.float64)
    return [
        Similarity(dx=float(dx), dy=float(dy), angle=math.radians(turn) * share, scale=scale**share)
        for (dx, dy), share in zip(positions, map(float, progress), strict=True)
    ]


def _follow_curve(
    points: np.ndarray, times: Sequence[float] | None, progress: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (F, 2) on the curve at fractions (F,) of the video, and the fraction of its length covered by then."""
    curve = sample_curve(points)
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(curve, axis=0).T).cumsum()])
    total = lengths[-1] if lengths[-1] > 0 else 1.0
    if times is None:
        covered = progress * total
    else:
        at_points = lengths[:: (len(curve) - 1) // (len(points) - 1)]
        covered = np.interp(progress, np.asarray(times), at_points)
    positions = np.stack([np.interp(covered, lengths, curve[:, axis]) for axis in (0, 1)], axis=1)
    return positions, covered / total


def sample_curve(points: np.ndarray) -> np.ndarray:
    """Sample a smooth curve through points (N, 2), CURVE_STEPS from each to the next: ((N - 1) CURVE_STEPS + 1, 2).

    Source: centripetal Catmull-Rom splines, which have no cusps or loops between two points (Yuksel et al. 2011,
    "Parameterization and applications of Catmull-Rom curves").
    """
    padded = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    gaps = np.maximum(np.hypot(*np.diff(padded, axis=0).T) ** CENTRIPETAL_EXPONENT, 1e-9)
    share = np.arange(CURVE_STEPS)[:, None] / CURVE_STEPS
    pieces = []
    for index in range(len(points) - 1):
        p0, p1, p2, p3 = padded[index : index + 4]
        gap0, gap1, gap2 = gaps[index : index + 3]
        tangent1 = gap1 * ((p1 - p0) / gap0 - (p2 - p0) / (gap0 + gap1) + (p2 - p1) / gap1)
        tangent2 = gap1 * ((p2 - p1) / gap1 - (p3 - p1) / (gap1 + gap2) + (p3 - p2) / gap2)
        pieces.append(
            (2 * share**3 - 3 * share**2 + 1) * p1
            + (share**3 - 2 * share**2 + share) * tangent1
            + (3 * share**2 - 2 * share**3) * p2
            + (share**3 - share**2) * tangent2
        )
    return np.concatenate([*pieces, points[-1:]])
