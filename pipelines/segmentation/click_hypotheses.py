"""Hypotheses of what a click means: GrabCut from areas of several sizes, and the choice among their masks.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W). A position is (column, row) in px.
"""

from collections.abc import Sequence

import cv2
import numpy as np

# of the longer side: radius of the disc that is an object at first; None: all of the image is
START_RADII = (None, 0.2, 0.5)
FAR_FACTOR = 2.2  # of a radius: further from the click all is background
BAND_FRACTION = 0.12  # of the root of a mask's area: width of the bands inside and outside its edge
COLOR_BINS = (26, 16, 16)  # width of a bin in L, a and b
# weights of the score, fitted to photographs composed with a known truth; only their ratios matter
AGREEMENT_WEIGHT, OVERLAP_WEIGHT, AREA_WEIGHT = 0.3, 0.8, 0.03
LIKELY_AREA = 0.12  # of the image

Position = tuple[int, int]


def list_start_marks(size: tuple[int, int], click: Position) -> list[np.ndarray]:
    """List GrabCut's marks, uint8 (H, W), from which to look for the object at a click; size: (H, W)."""
    height, width = size
    distance = np.hypot(np.arange(width) - click[0], np.arange(height)[:, None] - click[1])
    starts = []
    for radius in START_RADII:
        marks = np.full(size, cv2.GC_PR_FGD, np.uint8)
        if radius is not None:
            radius_px = radius * max(size)
            marks[distance > radius_px] = cv2.GC_PR_BGD
            marks[distance > FAR_FACTOR * radius_px] = cv2.GC_BGD
        starts.append(marks)
    return starts


def choose_mask(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Choose the mask with the highest score: others agree with it, its edge parts colors, and its area is likely."""
    bins = _quantize_colors(image)
    scores = []
    for index, mask in enumerate(masks):
        others = [other for position, other in enumerate(masks) if position != index]
        agreement = float(np.mean([(mask & other).sum() / (mask | other).sum() for other in others] or [0.0]))
        area_term = np.log(mask.mean() / LIKELY_AREA) ** 2
        overlap = _measure_color_overlap(bins, mask)
        scores.append(AGREEMENT_WEIGHT * agreement - OVERLAP_WEIGHT * overlap - AREA_WEIGHT * area_term)
    return masks[int(np.argmax(scores))]


def _quantize_colors(image: np.ndarray) -> np.ndarray:
    """Number the color of each pixel, int (H, W), among bins in Lab."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(int) // np.array(COLOR_BINS)
    return (lab[..., 0] * 16 + lab[..., 1]) * 16 + lab[..., 2]


def _measure_color_overlap(bins: np.ndarray, mask: np.ndarray) -> float:
    """Share of the colors of a band inside a mask's edge that the band outside it has, too: 0 to 1."""
    radius = max(2, int(BAND_FRACTION * float(mask.sum()) ** 0.5))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    levels = mask.astype(np.uint8)
    inside = mask & ~(cv2.erode(levels, kernel, borderValue=0) > 0)
    outside = (cv2.dilate(levels, kernel) > 0) & ~mask
    if not outside.any():
        return 1.0
    counts = [np.bincount(bins[part], minlength=int(bins.max()) + 1) for part in (inside, outside)]
    return float(np.minimum(*(count / count.sum() for count in counts)).sum())
