"""Segmenter by GrabCut, which needs no weights.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import MIN_REMAINING_FRACTION, Point, check_points
from dianjing.pipelines.segmentation.click_hypotheses import (
    Position,
    find_other_colors,
    list_start_marks,
    list_surfaces,
    measure_color_overlap,
)
from dianjing.pipelines.segmentation.joining import join_pieces

WORKING_SIDE_PX = 384  # GrabCut takes many seconds on more
SEARCH_SIDE_PX = 192  # of the search around a click
MAX_COLOR_OVERLAP = 0.4  # across the edge of a mask; above it the object is searched around the click
MIN_OVERLAP_GAIN = 0.1  # of what is found there
BORDER_FRACTION = 0.02  # of the longer side: assumed to be background
POINT_RADIUS_FRACTION = 0.015  # of the longer side
NUM_ITERATIONS = 5
NUM_REFINING_ITERATIONS = 2
REFINING_BAND_FRACTION = 0.03  # of the longer side: how far a mask's edge may move when it is refined
MIN_REST_FACTOR = 1.0  # of what the disc at a click covers of other colors: a smaller rest does not tell
MAX_RUNS = 8  # of GrabCut for one mask; further points change the mask around them alone
RANDOM_SEED = 0  # of OpenCV's generator, from which GrabCut initializes its mixtures
MIN_AREA_FRACTION, MAX_AREA_FRACTION = 0.0005, 0.7  # of the image: anything else is taken for a failure
MIN_OBJECT_FRACTION = 0.004  # of the image: smaller parts of the foreground belong to the background
LAB_TOLERANCE = 12  # of the flood fill, in each channel


class GrabCutSegmenter:
    """`Segmenter` without weights: the border is background, the points are foreground.

    GrabCut starts from the whole image; where the edge of its mask does not part colors, from areas around the click.
    Where it finds no object, a flood fill of similar color takes its place.
    Source: GrabCut (Rother et al. 2004), as implemented in OpenCV.
    """

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        self.image_size = (width, height)
        self.resized_image = _limit_side(image, WORKING_SIDE_PX)
        self.search_image = _limit_side(self.resized_image, SEARCH_SIDE_PX)

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points.

        The points are taken as clicks, one after the other: one that the mask agrees with changes nothing, a positive
        one outside it adds what is there and what joins both, and a negative one inside it takes that away.
        """
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        first = next(point for point in points if point.positive)
        clicks, num_runs = [first], 1
        mask = self._remove_other_colors(self._find_object(clicks), first)
        for point in [point for point in points if point is not first]:
            clicks.append(point)
            ((column, row),) = self._scale_points(self.resized_image, [point], positive=point.positive)
            if mask[row, column] == point.positive:
                continue
            area = self._draw_discs([point], positive=point.positive) > 0
            if num_runs < MAX_RUNS:
                num_runs += 1
                found = self._find_object(clicks) if point.positive else mask & ~self._segment(clicks)
                found = area | _select_components(found, [(column, row)])
                if point.positive or (mask & ~found).sum() >= MIN_REMAINING_FRACTION * mask.sum():
                    area = found
            mask = join_pieces(self.resized_image, mask, area) if point.positive else mask & ~area
            mask |= self._draw_discs(clicks, positive=True) > 0
            mask &= self._draw_discs(clicks, positive=False) == 0
        return self._enlarge(mask)

    def _remove_other_colors(self, mask: np.ndarray, click: Point) -> np.ndarray:
        """Decide by color whether the mask has what the disc at its click covers of other colors, such as the sky.

        The disc was certain while the object was searched; now the rest of the mask tells the colors of the object.
        """
        (position,) = self._scale_points(mask, [click], positive=True)
        other = find_other_colors(self.resized_image, position, radius_px=_get_radius(mask)) & mask
        rest = mask & ~other
        if not other.any() or rest.sum() < MIN_REST_FACTOR * other.sum():
            return mask
        marks = np.where(rest, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
        marks[other] = cv2.GC_PR_FGD
        found = _select_components(_run_grabcut(self.resized_image, marks, NUM_REFINING_ITERATIONS), [position])
        return found if found.sum() > rest.sum() / 2 else mask  # less: the click itself is not on the object's color

    def predict_foreground(self) -> np.ndarray:
        """Predict the mask, bool (H, W), of all that is not like the border of the image, without specks."""
        marks = np.full(self.resized_image.shape[:2], cv2.GC_PR_FGD, np.uint8)
        self._mark_points(marks, ())
        mask = _run_grabcut(self.resized_image, marks, NUM_ITERATIONS)
        _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        return self._enlarge(np.isin(components, 1 + np.flatnonzero(areas >= MIN_OBJECT_FRACTION * mask.size)))

    def _enlarge(self, mask: np.ndarray) -> np.ndarray:
        """Resize a mask to the size of the image."""
        return cv2.resize(mask.astype(np.float32), self.image_size, interpolation=cv2.INTER_LINEAR) > 0.5

    def _find_object(self, clicks: Sequence[Point]) -> np.ndarray:
        """Find the object at the last of the clicks: in the whole image, or around the click where that goes wrong.

        It goes wrong where the edge of the mask does not part colors. Around the click, the search is on a small image:
        from the disc at the click, and where that finds nothing, from each of the surfaces that the disc covers.
        """
        mask = self._segment(clicks)
        overlap = measure_color_overlap(self.resized_image, mask)
        if overlap <= MAX_COLOR_OVERLAP:
            return mask
        image = self.search_image
        click = self._scale_points(image, clicks[-1:], positive=True)[0]
        found = self._search(image, clicks, [(None, click)], limit=overlap - MIN_OVERLAP_GAIN)
        if found is None:
            surfaces = list_surfaces(image, click, radius_px=_get_radius(image))
            found = self._search(image, clicks, surfaces, limit=min(overlap - MIN_OVERLAP_GAIN, MAX_COLOR_OVERLAP))
        if found is None:
            return mask
        return found[0] if image.shape == self.resized_image.shape else self._refine(*found, clicks)

    def _search(
        self,
        image: np.ndarray,
        clicks: Sequence[Point],
        areas: Sequence[tuple[np.ndarray | None, Position]],
        *,
        limit: float,
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Find the mask whose edge parts colors best, below a limit of their overlap, and its area.

        areas: what is certain at the last click, bool (h, w), None for the disc; and a position to search around.
        """
        found = None
        for area, seed in areas:
            for marks in list_start_marks(image.shape[:2], seed):
                self._mark_points(marks, clicks, area=area)
                positions = [seed] if area is None else _list_positions(area)
                candidate = _select_components(_run_grabcut(image, marks, NUM_ITERATIONS), positions)
                if not MIN_AREA_FRACTION < candidate.mean() < MAX_AREA_FRACTION:
                    continue
                overlap = measure_color_overlap(image, candidate)
                if overlap < limit:
                    limit, found = overlap, (candidate, area)
        return found

    def _refine(self, small_mask: np.ndarray, small_area: np.ndarray | None, clicks: Sequence[Point]) -> np.ndarray:
        """Find the edge of a mask on the larger image, in a band about its edge on the smaller one.

        small_area: what is certain at the last click, bool, on the smaller image; None: the disc.
        """
        height, width = self.resized_image.shape[:2]
        levels = cv2.resize(small_mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        band_px = max(2, round(REFINING_BAND_FRACTION * max(height, width)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band_px + 1,) * 2)
        mask = levels > 0.5
        marks = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        marks[cv2.dilate(mask.astype(np.uint8), kernel) == 0] = cv2.GC_BGD
        marks[cv2.erode(mask.astype(np.uint8), kernel) > 0] = cv2.GC_FGD
        area, positions = None, self._scale_points(self.resized_image, clicks[-1:], positive=True)
        if small_area is not None:
            area = cv2.resize(small_area.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
            positions = _list_positions(area)
        self._mark_points(marks, clicks, area=area)
        return _select_components(_run_grabcut(self.resized_image, marks, NUM_REFINING_ITERATIONS), positions)

    def _segment(self, clicks: Sequence[Point]) -> np.ndarray:
        """Segment the image by all points at once, with a flood fill where GrabCut finds no object."""
        marks = np.full(self.resized_image.shape[:2], cv2.GC_PR_FGD, np.uint8)
        self._mark_points(marks, clicks)
        positions = self._scale_points(self.resized_image, clicks, positive=True)
        mask = _select_components(_run_grabcut(self.resized_image, marks, NUM_ITERATIONS), positions)
        if not MIN_AREA_FRACTION < mask.mean() < MAX_AREA_FRACTION:
            mask = _select_components(self._flood_fill(positions), positions)
        return mask

    def _mark_points(self, marks: np.ndarray, points: Sequence[Point], *, area: np.ndarray | None = None) -> None:
        """Set GrabCut's marks, uint8 (h, w), that are certain: the border, and discs at the points.

        area: bool (h, w), what is certain at the last point in place of a disc.
        """
        border = max(1, round(BORDER_FRACTION * max(marks.shape)))
        marks[:border], marks[-border:], marks[:, :border], marks[:, -border:] = (cv2.GC_BGD,) * 4
        if area is not None:
            marks[area], points = cv2.GC_FGD, points[:-1]
        for positive, mark in ((True, cv2.GC_FGD), (False, cv2.GC_BGD)):
            for center in self._scale_points(marks, points, positive=positive):
                cv2.circle(marks, center, _get_radius(marks), mark, thickness=-1)

    def _draw_discs(self, points: Sequence[Point], *, positive: bool) -> np.ndarray:
        """Draw the areas, uint8 (h, w), that points of one kind are certain of."""
        discs = np.zeros(self.resized_image.shape[:2], np.uint8)
        for center in self._scale_points(discs, points, positive=positive):
            cv2.circle(discs, center, _get_radius(discs), 1, thickness=-1)
        return discs

    def _scale_points(self, pixels: np.ndarray, points: Sequence[Point], *, positive: bool) -> list[Position]:
        """Convert points of one kind to (column, row) of pixels (h, w) that show the image."""
        height, width = pixels.shape[:2]
        across, down = width / self.image_size[0], height / self.image_size[1]
        return [
            (min(int(point.x * across), width - 1), min(int(point.y * down), height - 1))
            for point in points
            if point.positive is positive
        ]

    def _flood_fill(self, positions: Sequence[Position]) -> np.ndarray:
        lab = cv2.cvtColor(self.resized_image, cv2.COLOR_RGB2LAB)
        filled = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
        for seed in positions:
            flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
            cv2.floodFill(lab, filled, seed, 0, (LAB_TOLERANCE,) * 3, (LAB_TOLERANCE,) * 3, flags)
        return filled[1:-1, 1:-1] > 0


def _limit_side(image: np.ndarray, side_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _list_positions(area: np.ndarray) -> list[Position]:
    return [(int(column), int(row)) for row, column in np.argwhere(area)]


def _get_radius(pixels: np.ndarray) -> int:
    return max(1, round(POINT_RADIUS_FRACTION * max(pixels.shape[:2])))


def _run_grabcut(image: np.ndarray, marks: np.ndarray, num_iterations: int) -> np.ndarray:
    """Run GrabCut from marks, uint8 (h, w): the mask of what it takes for the object."""
    # areas of one color make the Gaussian mixtures degenerate: slow, or a failed assertion
    noise = np.random.default_rng(0).integers(-2, 3, image.shape)
    noisy = (image + noise).clip(0, 255).astype(np.uint8)
    marks, models = marks.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(RANDOM_SEED)
    for iteration in range(num_iterations):
        mode = cv2.GC_INIT_WITH_MASK if iteration == 0 else cv2.GC_EVAL
        cv2.grabCut(noisy, marks, (0, 0, 1, 1), *models, 1, mode)  # the rectangle is ignored
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def _select_components(mask: np.ndarray, points: Sequence[tuple[int, int]]) -> np.ndarray:
    """Keep the connected components that hold a point, with their holes filled."""
    _, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    selected = {int(components[y, x]) for x, y in points} - {0}
    chosen = np.isin(components, sorted(selected)).astype(np.uint8)
    contours, _ = cv2.findContours(chosen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(chosen), contours, -1, 1, thickness=-1) > 0
