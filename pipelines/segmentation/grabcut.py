"""Segmenter by GrabCut, which needs no weights.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import Point, check_points
from dianjing.pipelines.segmentation.joining import join_pieces

WORKING_SIDE_PX = 384  # GrabCut takes many seconds on more
BORDER_FRACTION = 0.02  # of the longer side: assumed to be background
POINT_RADIUS_FRACTION = 0.015  # of the longer side
NUM_ITERATIONS = 5
MIN_REMAINING_FRACTION = 0.1  # of a mask: a negative click that would take away more takes its own surroundings alone
MAX_RUNS = 8  # of GrabCut for one mask; further points change the mask around them alone
RANDOM_SEED = 0  # of OpenCV's generator, from which GrabCut initializes its mixtures
MIN_AREA_FRACTION, MAX_AREA_FRACTION = 0.0005, 0.7  # of the image: anything else is taken for a failure
LAB_TOLERANCE = 12  # of the flood fill, in each channel


class GrabCutSegmenter:
    """`Segmenter` without weights: the border is background, the points are foreground.

    Where GrabCut finds no object, a flood fill of similar color takes its place.
    Source: GrabCut (Rother et al. 2004), as implemented in OpenCV.
    """

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        self.image_size = (width, height)
        self.scale = min(1.0, WORKING_SIDE_PX / max(height, width))
        small = (max(2, round(width * self.scale)), max(2, round(height * self.scale)))
        self.resized_image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points.

        The points are taken as clicks, one after the other: one that the mask agrees with changes nothing, a positive
        one outside it adds what is there and what joins both, and a negative one inside it takes that away.
        """
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        first = next(point for point in points if point.positive)
        clicks, num_runs = [first], 1
        mask = self._segment(clicks)
        for point in [point for point in points if point is not first]:
            clicks.append(point)
            ((column, row),) = self._scale_points([point], positive=point.positive)
            if mask[row, column] == point.positive:
                continue
            area = self._draw_discs([point], positive=point.positive) > 0
            if num_runs < MAX_RUNS:
                num_runs += 1
                segmented = self._segment(clicks)
                found = area | _select_components(segmented if point.positive else mask & ~segmented, [(column, row)])
                if point.positive or (mask & ~found).sum() >= MIN_REMAINING_FRACTION * mask.sum():
                    area = found
            mask = join_pieces(self.resized_image, mask, area) if point.positive else mask & ~area
            mask |= self._draw_discs(clicks, positive=True) > 0
            mask &= self._draw_discs(clicks, positive=False) == 0
        resized = cv2.resize(mask.astype(np.float32), self.image_size, interpolation=cv2.INTER_LINEAR)
        return resized > 0.5

    def _segment(self, points: Sequence[Point]) -> np.ndarray:
        """Segment the resized image by all points at once, with a flood fill where GrabCut finds no object."""
        mask = _select_components(self._run_grabcut(points), self._scale_points(points, positive=True))
        if not MIN_AREA_FRACTION < mask.mean() < MAX_AREA_FRACTION:
            mask = _select_components(self._flood_fill(points), self._scale_points(points, positive=True))
        return mask

    def _draw_discs(self, points: Sequence[Point], *, positive: bool) -> np.ndarray:
        """Draw the areas, uint8 (h, w), that points of one kind are certain of."""
        discs = np.zeros(self.resized_image.shape[:2], np.uint8)
        for center in self._scale_points(points, positive=positive):
            cv2.circle(discs, center, self._get_radius(), 1, thickness=-1)
        return discs

    def _get_radius(self) -> int:
        return max(1, round(POINT_RADIUS_FRACTION * max(self.resized_image.shape[:2])))

    def _scale_points(self, points: Sequence[Point], *, positive: bool) -> list[tuple[int, int]]:
        """Convert points to (column, row) of the resized image."""
        height, width = self.resized_image.shape[:2]
        return [
            (min(int(point.x * self.scale), width - 1), min(int(point.y * self.scale), height - 1))
            for point in points
            if point.positive is positive
        ]

    def _run_grabcut(self, points: Sequence[Point]) -> np.ndarray:
        height, width = self.resized_image.shape[:2]
        border, radius = max(1, round(BORDER_FRACTION * max(height, width))), self._get_radius()
        marks = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
        marks[:border], marks[-border:], marks[:, :border], marks[:, -border:] = (cv2.GC_BGD,) * 4
        for positive, mark in ((True, cv2.GC_FGD), (False, cv2.GC_BGD)):
            for center in self._scale_points(points, positive=positive):
                cv2.circle(marks, center, radius, mark, thickness=-1)
        # areas of one color make the Gaussian mixtures degenerate: slow, or a failed assertion
        noise = np.random.default_rng(0).integers(-2, 3, self.resized_image.shape)
        noisy = (self.resized_image + noise).clip(0, 255).astype(np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(RANDOM_SEED)
        for iteration in range(NUM_ITERATIONS):
            mode = cv2.GC_INIT_WITH_MASK if iteration == 0 else cv2.GC_EVAL
            cv2.grabCut(noisy, marks, (0, 0, 1, 1), *models, 1, mode)  # the rectangle is ignored
        return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)

    def _flood_fill(self, points: Sequence[Point]) -> np.ndarray:
        lab = cv2.cvtColor(self.resized_image, cv2.COLOR_RGB2LAB)
        filled = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
        for seed in self._scale_points(points, positive=True):
            flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
            cv2.floodFill(lab, filled, seed, 0, (LAB_TOLERANCE,) * 3, (LAB_TOLERANCE,) * 3, flags)
        return filled[1:-1, 1:-1] > 0


def _select_components(mask: np.ndarray, points: Sequence[tuple[int, int]]) -> np.ndarray:
    """Keep the connected components that hold a point, with their holes filled."""
    _, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    selected = {int(components[y, x]) for x, y in points} - {0}
    chosen = np.isin(components, sorted(selected)).astype(np.uint8)
    contours, _ = cv2.findContours(chosen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(chosen), contours, -1, 1, thickness=-1) > 0
