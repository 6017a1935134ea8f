"""Refinement of rough masks by the colors of the image, so that their edges lie on those of the object.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W). Distances are fractions of the longer side.
"""

import cv2
import numpy as np

MAX_INNER_ERROR, MAX_OUTER_ERROR = 1 / 32, 3 / 64  # how far the edge of a rough mask may be off, inwards and outwards
FRAME_WIDTH = 1 / 16  # of the pixels at the border of the image, by which the background is judged
MIN_FRAME_SHARE = 0.3  # of these that must lie outside the mask
PLAIN_TOLERANCE = 0.06  # 95 % of a plain background at the border are closer to its median color, on [0, 1]
MIN_DIFFERENCE = 0.1  # of a pixel that belongs to an object, from a plain background
MIN_PART_SHARE = 0.05  # of the largest part of the objects; smaller ones are specks
NUM_ITERATIONS = 3
MIN_WORKING_SIDE_PX, MAX_WORKING_SIDE_PX = 128, 384  # of GrabCut
RANDOM_SEED = 0  # of OpenCV's generator


def refine_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Refine the mask of objects: by difference from a plain background, else by GrabCut near the edge.

    Deep inside, an object keeps what looks like the background: a white face before white.
    """
    if not mask.any() or mask.all():
        return mask
    refined = _subtract_plain_background(image, mask)
    if refined is None:
        refined = _refine_by_grabcut(image, mask)
    return _remove_specks(refined if refined.any() else mask)


def measure_depth(mask: np.ndarray) -> np.ndarray:
    """Measure the distance in px to the edge of a mask, 0 outside; it goes on beyond the borders of the image."""
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]


def _subtract_plain_background(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Select all that differs from a plain background; None for a background that is not plain."""
    side = max(mask.shape)
    width = max(1, round(FRAME_WIDTH * side))
    frame = np.ones(mask.shape, bool)
    frame[width:-width, width:-width] = False
    background = frame & (measure_depth(~mask) > MAX_OUTER_ERROR * side)
    if background.sum() < MIN_FRAME_SHARE * frame.sum():
        return None
    colors = image.astype(np.float32) / 255
    difference = np.abs(colors - np.median(colors[background], axis=0)).max(axis=-1)
    if np.quantile(difference[background], 0.95) > PLAIN_TOLERANCE:
        return None
    differing = difference > MIN_DIFFERENCE
    return differing | (measure_depth(mask) > MAX_OUTER_ERROR * side)


def _remove_specks(mask: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, [i + 1 for i in range(count - 1) if areas[i] >= MIN_PART_SHARE * areas.max()])


def _refine_by_grabcut(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Move the edge of a mask by the colors on both sides of it (Rother et al. 2004, as in OpenCV)."""
    height, width = mask.shape
    side = max(height, width)
    scale = min(max(MIN_WORKING_SIDE_PX / side, 1), MAX_WORKING_SIDE_PX / side)
    size = max(2, round(width * scale)), max(2, round(height * scale))
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    rough = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    labels = np.where(rough, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[measure_depth(rough) > MAX_INNER_ERROR * max(size)] = cv2.GC_FGD
    labels[measure_depth(~rough) > MAX_OUTER_ERROR * max(size)] = cv2.GC_BGD
    if rough.all() or not rough.any():
        return mask
    cv2.setRNGSeed(RANDOM_SEED)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    box = (0, 0, 1, 1)  # not used: the labels are given
    cv2.grabCut(np.ascontiguousarray(enlarged), labels, box, *models, NUM_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    refined = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return cv2.resize(refined, (width, height), interpolation=interpolation) > 0.5
