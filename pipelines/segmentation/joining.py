"""Joining of pieces: what lies between two pieces of one object that clicks selected one after the other.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

import cv2
import numpy as np

MAX_GAP_FRACTION = 0.6  # of the root of the smaller piece's area: pieces further apart are objects of their own
NUM_COLORS = 8  # of the palette by which surfaces are told apart
MIN_COLOR_DISTANCE = 15.0  # in Lab, of two colors of the palette
RANDOM_SEED = 0  # of OpenCV's generator, from which the palette starts
MIN_WITHIN = 0.85  # share of a surface's area that lies between the pieces
MIN_CONTRAST = 25.0  # in Lab: less of it to the background near a surface, and the surface belongs to that


def join_pieces(image: np.ndarray, mask: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """Join a piece to a mask near it: what lies between them and touches both belongs to it, too.

    A collar between a head and a suit does; the background, which goes on beyond them, does not.
    """
    joined = mask | piece
    rest = mask & ~piece
    if not rest.any() or not piece.any() or not _is_near(rest, piece):
        return joined
    between = _find_between(image, joined)
    is_changed = False
    count, labels = cv2.connectedComponents(between.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        part = labels == label
        around = cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if (around & rest).any() and (around & piece).any():
            joined, is_changed = joined | part, True
    return _fill_holes(joined) if is_changed else joined


def _find_between(image: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Find the surfaces that lie within the convex hull of a mask, without those that the background goes on in."""
    hull = _fill_hull(joined)
    within, background = [], np.zeros_like(joined)
    for surface in _find_surfaces(image, hull & ~joined, joined):
        if (surface & hull).sum() >= MIN_WITHIN * surface.sum():
            within.append(surface)
        else:
            background |= surface
    lab, between = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32), np.zeros_like(joined)
    for surface in within:
        nearby = (cv2.dilate(surface.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & background
        if not nearby.any() or np.linalg.norm(lab[surface].mean(axis=0) - lab[nearby].mean(axis=0)) > MIN_CONTRAST:
            between |= surface
    return between


def _is_near(mask: np.ndarray, piece: np.ndarray) -> bool:
    gap = float(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)[piece].min())
    return gap <= MAX_GAP_FRACTION * float(min(mask.sum(), piece.sum())) ** 0.5


def _fill_hull(mask: np.ndarray) -> np.ndarray:
    outline = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    return cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), outline, 1) > 0


def _find_surfaces(image: np.ndarray, area: np.ndarray, joined: np.ndarray) -> list[np.ndarray]:
    """Find the connected surfaces of one color outside a mask, of which a part lies within the area."""
    if not area.any():
        return []
    lab = cv2.cvtColor(cv2.bilateralFilter(image, 5, 30, 3), cv2.COLOR_RGB2LAB)
    samples = lab[area].astype(np.float32)
    cv2.setRNGSeed(RANDOM_SEED)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1.0)
    count = min(NUM_COLORS, len(samples))
    _, _, palette = cv2.kmeans(samples, count, None, criteria, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    colors: list[np.ndarray] = []
    for color in palette:
        if all(np.linalg.norm(color - other) > MIN_COLOR_DISTANCE for other in colors):
            colors.append(color)
    distances = np.stack([np.linalg.norm(lab - color, axis=-1) for color in colors])
    nearest = cv2.medianBlur(distances.argmin(axis=0).astype(np.uint8), 3)
    surfaces = []
    for index in range(len(colors)):
        _, labels = cv2.connectedComponents(((nearest == index) & ~joined).astype(np.uint8), connectivity=4)
        surfaces += [labels == label for label in np.unique(labels[area]) if label]
    return surfaces


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Close cracks of two px, and fill what is enclosed."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) | mask
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(closed), outlines, -1, 1, thickness=-1) > 0
