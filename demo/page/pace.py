"""Pace of a path on the page: by name, or as the times at its points."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Region
from dianjing.pipelines.validation import format_value
from dianjing.pipelines.video.motion_path import CURVE_STEPS, XY, sample_curve

EVEN = ""
PACES = {  # from a share of the path's length to the time at which it is reached, both from 0 to 1
    "faster": math.sqrt,
    "slower": lambda share: 1 - math.sqrt(1 - share),
    "gentle": lambda share: math.acos(1 - 2 * share) / math.pi,
}
MIN_PATH_POINTS = 17  # between points the pace is even


def apply_pace(path: Sequence[XY], pace: str) -> tuple[tuple[XY, ...], tuple[float, ...] | None]:
    """Give a path a pace: a name of PACES, or a time from 0 to 1 for each point; "" is an even pace.

    A named pace may add points to the path, on the same curve.
    Raises: DianjingError for times that are none, and those that `Region` refuses.
    """
    text = pace.strip()
    if text == EVEN:
        return tuple(path), None
    if text in PACES:
        return _follow_pace(path, text)
    try:
        times = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise DianjingError("pace_malformed", value=format_value(pace)) from None
    region = Region(path=path, times=times, target="image")
    assert region.path is not None
    return tuple(region.path), None if region.times is None else tuple(region.times)


def name_pace(path: Sequence[XY] | None, times: Sequence[float] | None) -> str:
    """Name the pace of a path: "" for an even one, a name of PACES, or else its times as text."""
    if path is None or times is None:
        return EVEN
    for name in PACES:
        if np.allclose(_compute_times(path, name), times, atol=1e-3):
            return name
    return " ".join(f"{time:g}" for time in times)


def _follow_pace(path: Sequence[XY], name: str) -> tuple[tuple[XY, ...], tuple[float, ...] | None]:
    refined = _refine(path)
    times = _compute_times(refined, name)
    if any(after <= before for before, after in pairwise(times)):  # it stays where it is
        return tuple(path), None
    return refined, times


def _refine(path: Sequence[XY]) -> tuple[XY, ...]:
    """Add points of the curve, as many in each piece, until it has MIN_PATH_POINTS; rounded to hundredths of a px."""
    pieces = 1
    while pieces * (len(path) - 1) + 1 < MIN_PATH_POINTS:
        pieces *= 2
    curve = sample_curve(np.asarray(path, np.float64))
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in curve[:: CURVE_STEPS // pieces])


def _compute_times(path: Sequence[XY], name: str) -> tuple[float, ...]:
    """Times at which a pace reaches the points of a path, rounded to thousandths."""
    curve = sample_curve(np.asarray(path, np.float64))
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(curve, axis=0).T).cumsum()])
    at_points = lengths[::CURVE_STEPS] / max(float(lengths[-1]), 1e-9)
    return tuple(round(PACES[name](min(float(share), 1.0)), 3) for share in at_points)
