"""Paths that are dragged over an image: the points of a pointer, as the browser sends them, and a few of them."""

import json
import math

import cv2
import numpy as np

from dianjing.errors import DianjingError
from dianjing.pipelines.video.motion_path import XY

MAX_DRAG_POINTS = 10_000
TOLERANCE = 0.004  # of the longer side: how far the points that are left out may lie from the others


def parse_drag(text: object) -> list[XY]:
    """Parse the JSON of a drag's points, [[x, y], ...]. Raises: DianjingError for anything else."""
    try:
        points = [(float(x), float(y)) for x, y in json.loads(str(text))]
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise DianjingError("drag_malformed") from None
    if not 2 <= len(points) <= MAX_DRAG_POINTS or not all(math.isfinite(value) for point in points for value in point):
        raise DianjingError("drag_malformed")
    return points


def simplify_path(points: list[XY], *, size: tuple[int, int]) -> list[XY]:
    """Choose the points of a path (x, y) that give its shape, with its ends, rounded to tenths of a px.

    size: (width, height) of the image in px. Source: Douglas & Peucker 1973.
    """
    line = np.array(points, np.float32)[:, None]
    chosen = cv2.approxPolyDP(line, TOLERANCE * max(size), closed=False)[:, 0]
    rounded = [(round(float(x), 1), round(float(y), 1)) for x, y in chosen]
    return rounded if len(rounded) > 1 else [rounded[0], rounded[0]]
