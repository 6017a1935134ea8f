"""Refinement of rough masks by the colors of the image, so that their edges lie on those of the object.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W). Distances are fractions of the longer side.
"""

import cv2
import numpy as np

from dianjing.pipelines.transparency.closed_form import solve_alpha

MAX_INNER_ERROR, MAX_OUTER_ERROR = 1 / 24, 1 / 16  # how far the edge of a rough mask may be off, inwards and outwards
FRAME_WIDTH = 1 / 16  # of the pixels at the border of the image, by which the background is judged
MIN_FRAME_SHARE = 0.3  # of these that must lie outside the mask
PLAIN_TOLERANCE = 0.06  # 95 % of a plain background at the border are closer to its median color, on [0, 1]
MIN_PLAIN_SHARE, PLAIN_SCATTER = 0.75, 0.01  # or this share, if 95 % of it are so close: the rest are further objects
MIN_DIFFERENCES = 0.03, 0.1  # of a pixel that belongs to an object, from a background without and with much noise
NOISE_FACTOR = 4.0  # a difference this many times that of 95 % of the background is not noise
PLAIN_EDGE_WIDTH = 1 / 48  # inside what differs from a plain background, in which the edge lies
RIDGE_SHARE = 0.9  # of the largest difference around: the middle of a line that is too thin to have an inside
MIN_PART_SHARE = 0.05  # of the largest part of the objects; smaller ones are specks
MAX_WORKING_SIDE_PX = 256  # of matting
MASK_WEIGHT = 1e-3  # of a rough mask in matting: it decides where the object and the background look alike


def refine_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Refine the mask of objects: by difference from a plain background, else by matting near the edge.

    Deep inside, an object keeps what looks like the background: a white face before white.
    """
    if not mask.any() or mask.all():
        return mask
    refined = _subtract_plain_background(image, mask)
    if refined is None:
        refined = _refine_by_matting(image, mask)
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
    levels = difference[background]
    is_close = levels < PLAIN_TOLERANCE
    has_objects = is_close.mean() > MIN_PLAIN_SHARE and np.quantile(levels[is_close], 0.95) < PLAIN_SCATTER
    if np.quantile(levels, 0.95) > PLAIN_TOLERANCE and not has_objects:
        return None
    if side > MAX_WORKING_SIDE_PX:  # the edge is narrow beside the object
        return (difference > MIN_DIFFERENCES[1]) | (measure_depth(mask) > MAX_OUTER_ERROR * side)
    threshold = np.clip(NOISE_FACTOR * np.quantile(levels[is_close], 0.95), *MIN_DIFFERENCES)
    differing = (difference > threshold) | (measure_depth(mask) > MAX_OUTER_ERROR * side)
    return _find_half_opacity(colors, differing, difference)


def _find_half_opacity(colors: np.ndarray, differing: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Find where at least half of what differs from a plain background, bool (H, W), is the object."""
    width = PLAIN_EDGE_WIDTH * max(differing.shape)
    inside = measure_depth(differing) > width
    is_thin = differing & (cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) > width + 1.5)
    largest = cv2.dilate(difference, np.ones((3, 3)))
    inside |= is_thin & (difference > MIN_DIFFERENCES[1]) & (difference >= RIDGE_SHARE * largest)
    prior, unknown = differing.astype(np.float64), differing & ~inside
    return solve_alpha(colors.astype(np.float64), prior, unknown, prior_weight=MASK_WEIGHT) > 0.5


def _remove_specks(mask: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, [i + 1 for i in range(count - 1) if areas[i] >= MIN_PART_SHARE * areas.max()])


def _refine_by_matting(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Move the edge of a mask to where the opacity is a half, solved in a wide band about it from the colors."""
    height, width = mask.shape
    scale = min(1.0, MAX_WORKING_SIDE_PX / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    colors = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    rough = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if rough.all() or not rough.any():
        return mask
    depth = measure_depth(rough)
    inside = depth > min(MAX_INNER_ERROR * max(size), depth.max() / 2)
    outside = measure_depth(~rough) > MAX_OUTER_ERROR * max(size)
    alpha = solve_alpha(colors, rough.astype(np.float64), ~(inside | outside), prior_weight=MASK_WEIGHT)
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
