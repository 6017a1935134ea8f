"""A click on a picture becomes a mask of what was clicked.

H height, W width; pictures are uint8 (H, W, 3), masks bool (H, W).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

MAX_POINTS = 1000
SIDE_PX = 384  # GrabCut takes many seconds on more
BORDER_SHARE = 0.02  # of the side: taken for background, or GrabCut has nothing to compare with
DOT_SHARE = 0.015
ITERATIONS, SECONDS = 5, 4.0
LEAST_SHARE, MOST_SHARE = 0.0005, 0.7  # of the picture: what is smaller or larger is no object
LAB_TOLERANCE = 12


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click in pixels of the picture; a negative one says what is not meant."""

    x: float
    y: float
    positive: bool = True


class Segmenter(Protocol):
    """Looks at a picture once, then answers any number of clicks."""

    def look(self, picture: np.ndarray) -> None: ...

    def mask(self, points: Sequence[Point]) -> np.ndarray: ...


def check_points(points: Sequence[Point], *, width: int, height: int) -> list[Point]:
    """Return the points; raise ValueError that says what was given, what is allowed and what to do."""
    if not points:
        raise ValueError("no click is given; click on what should move")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points):,} clicks; at most {MAX_POINTS:,} are taken")
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise ValueError(f"a click at ({point.x}, {point.y}) is no place; give pixels")
        if not (0 <= point.x < width and 0 <= point.y < height):
            raise ValueError(
                f"a click at ({point.x:g}, {point.y:g}) is outside the picture of {width} x {height} px; "
                f"x runs from 0 to {width - 1}, y from 0 to {height - 1}"
            )
    if not any(point.positive for point in points):
        raise ValueError("all clicks are negative; at least one must say what is meant")
    return list(points)


class GrabCut:
    """Needs no weights: the border is background, what differs from it and holds the click is the object.

    Source: GrabCut (Rother et al. 2004), by OpenCV. Where it finds no object, a flood of like colour.
    """

    def look(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        self.size = (width, height)
        self.scale = min(1.0, SIDE_PX / max(height, width))
        small = (max(2, round(width * self.scale)), max(2, round(height * self.scale)))
        self.small = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)

    def mask(self, points: Sequence[Point]) -> np.ndarray:
        """bool (H, W)"""
        points = check_points(points, width=self.size[0], height=self.size[1])
        found = _clicked_part(self._cut(points), self._places(points, positive=True))
        if not LEAST_SHARE < found.mean() < MOST_SHARE:
            found = _clicked_part(self._flood(points), self._places(points, positive=True))
        large = cv2.resize(found.astype(np.float32), self.size, interpolation=cv2.INTER_LINEAR)
        return large > 0.5

    def _places(self, points: Sequence[Point], *, positive: bool) -> list[tuple[int, int]]:
        """(x, y) in the small picture."""
        height, width = self.small.shape[:2]
        return [
            (min(int(point.x * self.scale), width - 1), min(int(point.y * self.scale), height - 1))
            for point in points
            if point.positive is positive
        ]

    def _cut(self, points: Sequence[Point]) -> np.ndarray:
        height, width = self.small.shape[:2]
        border, dot = (max(1, round(share * max(height, width))) for share in (BORDER_SHARE, DOT_SHARE))
        marks = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
        marks[:border], marks[-border:], marks[:, :border], marks[:, -border:] = (cv2.GC_BGD,) * 4
        for positive, kind in ((True, cv2.GC_FGD), (False, cv2.GC_BGD)):
            for place in self._places(points, positive=positive):
                cv2.circle(marks, place, dot, kind, thickness=-1)
        # areas without any noise make its Gaussians degenerate: slow, or a failed assertion
        noise = np.random.default_rng(0).integers(-2, 3, self.small.shape)
        noisy = (self.small + noise).clip(0, 255).astype(np.uint8)
        models, began = (np.zeros((1, 65)), np.zeros((1, 65))), time.monotonic()
        for turn in range(ITERATIONS):
            mode = cv2.GC_INIT_WITH_MASK if turn == 0 else cv2.GC_EVAL
            cv2.grabCut(noisy, marks, (0, 0, 1, 1), *models, 1, mode)  # the rectangle is not looked at
            if time.monotonic() - began > SECONDS:
                break
        return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)

    def _flood(self, points: Sequence[Point]) -> np.ndarray:
        lab = cv2.cvtColor(self.small, cv2.COLOR_RGB2LAB)
        flooded = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
        for place in self._places(points, positive=True):
            flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
            cv2.floodFill(lab, flooded, place, 0, (LAB_TOLERANCE,) * 3, (LAB_TOLERANCE,) * 3, flags)
        return flooded[1:-1, 1:-1] > 0


def _clicked_part(mask: np.ndarray, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """The connected parts that hold a click, without holes."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    wanted = {int(parts[y, x]) for x, y in places} - {0}
    chosen = np.isin(parts, sorted(wanted)).astype(np.uint8)
    outlines, _ = cv2.findContours(chosen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(chosen), outlines, -1, 1, thickness=-1) > 0
