"""Hypotheses of what a click means: surfaces that it may lie on, areas that GrabCut may start from, and how well the
edge of a mask parts colors.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W). A position is (column, row) in px.
"""

import cv2
import numpy as np

START_RADII = (0.2, 0.5)  # of the longer side: radius of the disc that is an object at first
FAR_FACTOR = 2.2  # of a radius: further from the click all is background
BAND_FRACTION = 0.12  # of the root of a mask's area: width of the bands inside and outside its edge
COLOR_BINS = (26, 16, 16)  # width of a bin in L, a and b
MIN_SURFACE_DISTANCE = 15.0  # in Lab, of the mean colors of two surfaces under a click
SEED_OFFSET = 2.0  # of the radius of a click: how far within a surface a further position lies
MIN_SURFACE_CONTRAST = 1.9  # that distance in standard deviations of the surfaces

Position = tuple[int, int]


def list_start_marks(size: tuple[int, int], click: Position) -> list[np.ndarray]:
    """List GrabCut's marks, uint8 (H, W), of discs around a click that an object may lie in; size: (H, W)."""
    distance = _measure_distances(size, click)
    starts = []
    for radius in START_RADII:
        marks = np.full(size, cv2.GC_PR_FGD, np.uint8)
        radius_px = radius * max(size)
        marks[distance > radius_px] = cv2.GC_PR_BGD
        marks[distance > FAR_FACTOR * radius_px] = cv2.GC_BGD
        starts.append(marks)
    return starts


def list_surfaces(image: np.ndarray, click: Position, *, radius_px: int) -> list[tuple[np.ndarray, Position]]:
    """List the surfaces at a click on the edge of an object, or on a tip of it: none where there is only one.

    Each is an area, bool (H, W), of the disc around the click, with a line to a position further within the surface.
    """
    size = image.shape[:2]
    rows, columns = np.nonzero(_measure_distances(size, click) <= radius_px + 0.5)
    colors = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[rows, columns].astype(np.float32)
    is_first = _split_colors(colors)
    if is_first is None:
        return []
    surfaces = []
    for part in (is_first, ~is_first):
        center = np.array([columns[part].mean(), rows[part].mean()])
        offset = center - click
        x, y = np.round(center + offset / max(float(np.linalg.norm(offset)), 1e-6) * SEED_OFFSET * radius_px).astype(
            int
        )
        seed = (int(np.clip(x, 0, size[1] - 1)), int(np.clip(y, 0, size[0] - 1)))
        area = np.zeros(size, np.uint8)
        area[rows[part], columns[part]] = 1
        cv2.line(area, (round(center[0]), round(center[1])), seed, 1)
        surfaces.append((area > 0, seed))
    return surfaces


def find_other_colors(image: np.ndarray, click: Position, *, radius_px: int) -> np.ndarray:
    """Find the pixels, bool (H, W), of the disc around a click that do not have the color of the one clicked on."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    difference = np.linalg.norm(lab - lab[click[1], click[0]], axis=-1)
    return (_measure_distances(image.shape[:2], click) <= radius_px + 0.5) & (difference > MIN_SURFACE_DISTANCE)


def _measure_distances(size: tuple[int, int], center: Position) -> np.ndarray:
    """Measure the distances, (H, W), from a position in px."""
    return np.hypot(np.arange(size[1]) - center[0], np.arange(size[0])[:, None] - center[1])


def _split_colors(colors: np.ndarray) -> np.ndarray | None:
    """Split colors (N, 3) in Lab into those of two surfaces, bool (N,), or None for one.

    Source: Otsu 1979, along the axis on which they differ most.
    """
    levels = colors @ np.linalg.svd(colors - colors.mean(axis=0), full_matrices=False)[2][0]
    splits = [levels <= level for level in np.unique(levels)[:-1]]
    if not splits:
        return None
    differences = [float(levels[~part].mean() - levels[part].mean()) for part in splits]
    best = int(np.argmax([part.mean() * (~part).mean() * d**2 for part, d in zip(splits, differences, strict=True)]))
    deviation = float(levels[splits[best]].std() + levels[~splits[best]].std())
    is_clear = differences[best] > max(MIN_SURFACE_DISTANCE, MIN_SURFACE_CONTRAST * deviation)
    return splits[best] if is_clear else None


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
