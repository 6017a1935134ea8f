"""Hypotheses of what a click means: areas that GrabCut may start from, and how well the edge of a mask parts colors.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W). A position is (column, row) in px.
"""

import cv2
import numpy as np

START_RADII = (0.2, 0.5)  # of the longer side: radius of the disc that is an object at first
FAR_FACTOR = 2.2  # of a radius: further from the click all is background
BAND_FRACTION = 0.12  # of the root of a mask's area: width of the bands inside and outside its edge
COLOR_BINS = (26, 16, 16)  # width of a bin in L, a and b

Position = tuple[int, int]


def list_start_marks(size: tuple[int, int], click: Position) -> list[np.ndarray]:
    """List GrabCut's marks, uint8 (H, W), of discs around a click that an object may lie in; size: (H, W)."""
    height, width = size
    distance = np.hypot(np.arange(width) - click[0], np.arange(height)[:, None] - click[1])
    starts = []
    for radius in START_RADII:
        marks = np.full(size, cv2.GC_PR_FGD, np.uint8)
        radius_px = radius * max(size)
        marks[distance > radius_px] = cv2.GC_PR_BGD
        marks[distance > FAR_FACTOR * radius_px] = cv2.GC_BGD
        starts.append(marks)
    return starts


def measure_color_overlap(image: np.ndarray, mask: np.ndarray) -> float:
    """Measure which share of the colors of a band inside a mask's edge the band outside it has, too: 0 to 1."""
    radius = max(2, int(BAND_FRACTION * float(mask.sum()) ** 0.5))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    levels = mask.astype(np.uint8)
    inside = mask & ~(cv2.erode(levels, kernel, borderValue=0) > 0)
    outside = (cv2.dilate(levels, kernel) > 0) & ~mask
    if not inside.any() or not outside.any():
        return 1.0
    bins = _quantize_colors(image)
    counts = [np.bincount(bins[part], minlength=int(bins.max()) + 1) for part in (inside, outside)]
    return float(np.minimum(*(count / count.sum() for count in counts)).sum())


def _quantize_colors(image: np.ndarray) -> np.ndarray:
    """Number the color of each pixel, int (H, W), among bins in Lab."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(int) // np.array(COLOR_BINS)
    return (lab[..., 0] * 16 + lab[..., 1]) * 16 + lab[..., 2]
