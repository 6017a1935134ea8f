"""A click on a picture becomes a mask of what was clicked.

H height, W width; pictures are uint8 (H, W, 3), masks bool (H, W).
"""

import time
from collections.abc import Sequence

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import Point, check_points

WORKING_SIDE_PX = 384  # GrabCut takes many seconds on more
BORDER_FRACTION = 0.02  # of the side: taken for background, or GrabCut has nothing to compare with
POINT_RADIUS_FRACTION = 0.015
NUM_ITERATIONS, TIME_LIMIT_S = 5, 4.0
MIN_AREA_FRACTION, MAX_AREA_FRACTION = 0.0005, 0.7  # of the picture: what is smaller or larger is no object
LAB_TOLERANCE = 12


class GrabCutSegmenter:
    """Needs no weights: the border is background, what differs from it and holds the click is the object.

    Source: GrabCut (Rother et al. 2004), by OpenCV. Where it finds no object, a flood of like colour.
    """

    def set_image(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        self.image_size = (width, height)
        self.scale = min(1.0, WORKING_SIDE_PX / max(height, width))
        small = (max(2, round(width * self.scale)), max(2, round(height * self.scale)))
        self.resized_image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """bool (H, W)"""
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        found = _select_components(self._run_grabcut(points), self._scale_points(points, positive=True))
        if not MIN_AREA_FRACTION < found.mean() < MAX_AREA_FRACTION:
            found = _select_components(self._flood_fill(points), self._scale_points(points, positive=True))
        large = cv2.resize(found.astype(np.float32), self.image_size, interpolation=cv2.INTER_LINEAR)
        return large > 0.5

    def _scale_points(self, points: Sequence[Point], *, positive: bool) -> list[tuple[int, int]]:
        """(x, y) in the small picture."""
        height, width = self.resized_image.shape[:2]
        return [
            (min(int(point.x * self.scale), width - 1), min(int(point.y * self.scale), height - 1))
            for point in points
            if point.positive is positive
        ]

    def _run_grabcut(self, points: Sequence[Point]) -> np.ndarray:
        height, width = self.resized_image.shape[:2]
        border, dot = (max(1, round(share * max(height, width))) for share in (BORDER_FRACTION, POINT_RADIUS_FRACTION))
        marks = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
        marks[:border], marks[-border:], marks[:, :border], marks[:, -border:] = (cv2.GC_BGD,) * 4
        for positive, kind in ((True, cv2.GC_FGD), (False, cv2.GC_BGD)):
            for place in self._scale_points(points, positive=positive):
                cv2.circle(marks, place, dot, kind, thickness=-1)
        # areas without any noise make its Gaussians degenerate: slow, or a failed assertion
        noise = np.random.default_rng(0).integers(-2, 3, self.resized_image.shape)
        noisy = (self.resized_image + noise).clip(0, 255).astype(np.uint8)
        models, began = (np.zeros((1, 65)), np.zeros((1, 65))), time.monotonic()
        for turn in range(NUM_ITERATIONS):
            mode = cv2.GC_INIT_WITH_MASK if turn == 0 else cv2.GC_EVAL
            cv2.grabCut(noisy, marks, (0, 0, 1, 1), *models, 1, mode)  # the rectangle is not looked at
            if time.monotonic() - began > TIME_LIMIT_S:
                break
        return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)

    def _flood_fill(self, points: Sequence[Point]) -> np.ndarray:
        lab = cv2.cvtColor(self.resized_image, cv2.COLOR_RGB2LAB)
        flooded = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
        for place in self._scale_points(points, positive=True):
            flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
            cv2.floodFill(lab, flooded, place, 0, (LAB_TOLERANCE,) * 3, (LAB_TOLERANCE,) * 3, flags)
        return flooded[1:-1, 1:-1] > 0


def _select_components(mask: np.ndarray, points: Sequence[tuple[int, int]]) -> np.ndarray:
    """The connected parts that hold a click, without holes."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    wanted = {int(parts[y, x]) for x, y in points} - {0}
    chosen = np.isin(parts, sorted(wanted)).astype(np.uint8)
    outlines, _ = cv2.findContours(chosen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(chosen), outlines, -1, 1, thickness=-1) > 0
