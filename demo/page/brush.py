"""Strokes of a brush over an image, as the browser sends them, and the mask that they paint.

H height, W width; masks are bool (H, W).
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from dianjing.errors import DianjingError

MAX_STROKES, MAX_STROKE_POINTS = 500, 5000
SUBPIXEL_BITS = 4  # of OpenCV's fixed-point coordinates


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A line of points (x, y) in px of the image, painted by a round brush."""

    points: tuple[tuple[float, float], ...]
    radius: float


def parse_strokes(text: object) -> list[Stroke]:
    """Parse the JSON of strokes: [{"points": [[x, y], ...], "radius": r}, ...]. Raises: DianjingError."""
    try:
        strokes = [
            Stroke(points=tuple((float(x), float(y)) for x, y in each["points"]), radius=float(each["radius"]))
            for each in json.loads(str(text))
        ]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise DianjingError("strokes_malformed") from None
    numbers = [number for stroke in strokes for point in (*stroke.points, (stroke.radius,)) for number in point]
    has_limits = len(strokes) <= MAX_STROKES and all(1 <= len(each.points) <= MAX_STROKE_POINTS for each in strokes)
    if not has_limits or not all(math.isfinite(number) and abs(number) < 2**15 for number in numbers):
        raise DianjingError("strokes_malformed")
    return strokes


def paint_mask(strokes: Sequence[Stroke], *, size: tuple[int, int]) -> np.ndarray:
    """Paint strokes on a mask of (width, height) px: every pixel whose centre is at most a radius from a line."""
    mask = np.zeros(size[::-1], np.uint8)
    scale = 2**SUBPIXEL_BITS
    for stroke in strokes:
        points = np.array([[(x - 0.5) * scale, (y - 0.5) * scale] for x, y in stroke.points]).round().astype(np.int32)
        thickness = max(1, round(2 * stroke.radius))
        cv2.polylines(mask, [points], isClosed=False, color=1, thickness=thickness, shift=SUBPIXEL_BITS)
        for x, y in points:
            radius = max(0, round(stroke.radius * scale))
            cv2.circle(mask, (int(x), int(y)), radius, 1, thickness=-1, shift=SUBPIXEL_BITS)
    return mask > 0


def serialize_canvas(image: Image.Image | None, strokes: Sequence[Stroke], *, radius: float) -> str:
    """Make the value of the brush in the browser, as JSON: the image as a data: URL, its size, strokes and radius."""
    if image is None:
        return "{}"
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return json.dumps(
        {
            "image": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
            "width": image.width,
            "height": image.height,
            "strokes": [vars(stroke) for stroke in strokes],
            "radius": radius,
        }
    )
