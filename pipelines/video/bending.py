"""Bending of parts: where a part joins the rest of an object, and how much each of its points follows a motion.

H height, W width; images are uint8 (H, W, 3), masks and joints bool (H, W). Points are (x, y) in px.
"""

import cv2
import numpy as np

BENDING_MOTIONS = ("flap", "nod", "sway")  # names of motions that bend about an anchor
WORKING_SIDE_PX = 256
FOLLOWING_FRACTION = 0.6  # of the way from the joint to the farthest point: from there on a part follows entirely
BASE_FRACTION = 0.12  # of the height of a mask: its lowest part, on which an object stands
MIN_JOINT_FRACTION = 0.06  # of the length of an outline
MAX_CONTRAST = 14.0  # in Lab: less across an outline is taken for the same surface going on
ANCHOR_RADIUS_FRACTION = 0.2  # of the root of a mask's area
STEP_FRACTION = 0.03  # of the same: how far to both sides of an outline colors are compared


def find_joint(
    image: np.ndarray, mask: np.ndarray, *, motion: str, anchor: tuple[float, float] | None = None
) -> np.ndarray | None:
    """Find the part of a mask's outline where it joins the rest: near the anchor, or else by the image.

    A part joins the rest where the same surface goes on across its outline, or where it is cut by the border of the
    image. An object that stands free joins the ground at its base; one that flaps has both wings, and no joint: None.
    """
    outline = mask & ~(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0)
    rows, columns = np.nonzero(outline)
    size = float(mask.sum()) ** 0.5
    if anchor is not None:
        distance = np.hypot(columns + 0.5 - anchor[0], rows + 0.5 - anchor[1])
        is_near = distance <= 1.5 * distance.min() + ANCHOR_RADIUS_FRACTION * size
        return _select(outline.shape, rows[is_near], columns[is_near])
    contrast = _measure_contrast(image, mask, rows, columns, step=max(2.0, STEP_FRACTION * size))
    is_border = (rows == 0) | (rows == mask.shape[0] - 1) | (columns == 0) | (columns == mask.shape[1] - 1)
    candidates = _select(outline.shape, *(part[(contrast < MAX_CONTRAST) | is_border] for part in (rows, columns)))
    gap = np.ones((5, 5), np.uint8)
    candidates = (cv2.dilate(candidates.astype(np.uint8), gap) > 0) & outline
    count, labels = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=8)
    center_row = np.nonzero(mask.any(axis=1))[0].mean()
    best, best_length = None, MIN_JOINT_FRACTION * len(rows)
    for label in range(1, count):
        part = labels == label
        below = np.nonzero(part)[0] >= center_row
        length = part.sum() if motion == "flap" else below.sum()
        if length > best_length and part.sum() < 0.6 * len(rows):
            best, best_length = part, float(length)
    if best is not None or motion == "flap":
        return best
    occupied = np.nonzero(mask.any(axis=1))[0]
    base_row = occupied[-1] - BASE_FRACTION * (occupied[-1] - occupied[0])
    return outline & (np.arange(len(mask)) >= base_row)[:, None]


def _select(shape: tuple[int, ...], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    selected = np.zeros(shape, bool)
    selected[rows, columns] = True
    return selected


def _measure_contrast(
    image: np.ndarray, mask: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, step: float
) -> np.ndarray:
    """Difference in Lab (N,) of the colors on both sides of points of a mask's outline."""
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 0), step / 2).astype(np.float32)
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), step)
    normal_x, normal_y = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3)[rows, columns] for order in ((1, 0), (0, 1)))
    length = np.maximum(np.hypot(normal_x, normal_y), 1e-6)
    sides = []
    for sign in (1, -1):
        x = (columns + sign * step * normal_x / length).round().astype(int).clip(0, mask.shape[1] - 1)
        y = (rows + sign * step * normal_y / length).round().astype(int).clip(0, mask.shape[0] - 1)
        sides.append(lab[y, x])
    return np.linalg.norm(sides[0] - sides[1], axis=-1)


def compute_bend_weight(mask: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Compute how much of a motion each place follows, float32 (H, W): 0 at the joint, 1 far from it."""
    distance = cv2.distanceTransform((~joint).astype(np.uint8), cv2.DIST_L2, 5)
    share = np.clip(distance / max(1.0, FOLLOWING_FRACTION * float(distance[mask].max())), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def complete_mask(mask: np.ndarray, joint: np.ndarray, *, motion: str) -> np.ndarray:
    """Complete the mask of a part to that of an object whose motion bends the part about its joint.

    A head that nods is the upper half of such an object, a wing one of two. Other parts are the whole.
    """
    rows, columns = np.nonzero(mask)
    joint_rows, joint_columns = np.nonzero(joint)
    height, width = mask.shape
    if motion == "nod":
        mirrored = 2 * joint_rows.mean() - rows
        rows, columns = np.concatenate([rows, mirrored]), np.concatenate([columns, columns])
    elif motion == "flap":
        mirrored = 2 * joint_columns.mean() - columns
        rows, columns = np.concatenate([rows, rows]), np.concatenate([columns, mirrored])
    else:
        return mask
    rows, columns = rows.round().astype(int), columns.round().astype(int)
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return _select(mask.shape, rows[is_inside], columns[is_inside])
