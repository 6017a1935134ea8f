"""Bending of parts: where a part joins the rest of an object, and how much each of its points follows a motion.

H height, W width; images are uint8 (H, W, 3), masks and joints bool (H, W). Points are (x, y) in px.
"""

from dataclasses import dataclass

import cv2
import numpy as np

BENDING_MOTIONS = ("flap", "nod", "sway")  # names of motions that bend about an anchor
TURNING_MOTIONS = ("sway",)  # those of which a part turns about its joint, as it has no room to slant
WORKING_SIDE_PX = 256
FOLLOWING_FRACTION = 0.6  # of the way from the joint to the farthest point: from there on a part follows entirely
BASE_FRACTION = 0.12  # of the height of a mask: its lowest part, on which an object stands
MIN_JOINT_FRACTION = 0.06  # of the length of an outline
MAX_JOINT_FRACTION = 0.4  # of the same: more of it lies within a surface
HALO_FRACTION = 0.3  # of the root of a mask's area: how far such a surface stretches
MAX_CONTRAST = 18.0  # in Lab: less across an outline is taken for the same surface going on
ANCHOR_RADIUS_FRACTION = 0.2  # of the root of a mask's area
PIECE_GAP_FRACTION = 0.5  # of the same, of a piece: an outline that is as near to another piece faces what joins them
# of the same: how far to both sides of an outline colors are compared, at it and beyond a rim as soft as that of hair
STEP_FRACTIONS = (0.03, 0.12)


@dataclass(frozen=True)
class Bend:
    """How a part bends: its mask, and how much of a motion each place follows, float32 (H, W), 0 at the joint.

    object_mask: that of the object whose motion bends the part, for the flow field. pivot: the middle of the joint.
    """

    mask: np.ndarray
    weight: np.ndarray
    object_mask: np.ndarray
    pivot: tuple[float, float]


def plan_bend(
    image: np.ndarray, mask: np.ndarray, *, motion: str, anchor: tuple[float, float] | None = None
) -> Bend | None:
    """Plan how a part bends about its joint: near the anchor, or else where the image shows it.

    A part joins the rest where the same surface goes on across its outline, or where it is cut by the border of the
    image. If that is most of the outline, the surface around it stretches with it; one that is alike at the rim alone,
    as that of hair, does not go on. An object that stands free bends about its base; one that flaps has both wings, and
    None is returned.
    """
    if anchor is not None:
        joint = _find_anchored_joint(mask, anchor)
    else:
        outline = _find_outline(mask)
        near, far = (_find_candidates(image, mask, outline, step_fraction=step) for step in STEP_FRACTIONS)
        if min(near.sum(), far.sum()) > MAX_JOINT_FRACTION * outline.sum():
            return _bend_surface(mask)
        found = _choose_joint(near & far, outline, mask, motion=motion)
        if found is None:
            return None
        joint = found
    rows, columns = np.nonzero(joint)
    pivot = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
    return Bend(mask, _compute_weight(mask, joint), _complete_mask(mask, joint, motion=motion), pivot)


def _find_outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0)


def _find_anchored_joint(mask: np.ndarray, anchor: tuple[float, float]) -> np.ndarray:
    """Find the joint at an anchor: a disc about it, or about the nearest place of the mask, and never all of it."""
    rows, columns = np.nonzero(mask)
    to_anchor = np.hypot(columns + 0.5 - anchor[0], rows + 0.5 - anchor[1])
    nearest = int(to_anchor.argmin())
    center = anchor if to_anchor[nearest] < 1 else (columns[nearest] + 0.5, rows[nearest] + 0.5)
    height, width = mask.shape
    distance = np.hypot(np.arange(width) + 0.5 - center[0], np.arange(height)[:, None] + 0.5 - center[1])
    radius = min(ANCHOR_RADIUS_FRACTION * float(mask.sum()) ** 0.5, float(distance[mask].max()) / 2)
    return distance <= max(radius, float(distance.min()))


def _find_candidates(image: np.ndarray, mask: np.ndarray, outline: np.ndarray, *, step_fraction: float) -> np.ndarray:
    """Find the pixels of an outline across which a surface goes on, or that lie on the border of the image."""
    rows, columns = np.nonzero(outline)
    contrast = _measure_contrast(image, mask, rows, columns, step=max(2.0, step_fraction * float(mask.sum()) ** 0.5))
    is_border = (rows == 0) | (rows == mask.shape[0] - 1) | (columns == 0) | (columns == mask.shape[1] - 1)
    is_candidate = ((contrast < MAX_CONTRAST) & ~_find_between(mask)[rows, columns]) | is_border
    candidates = _select(outline.shape, rows[is_candidate], columns[is_candidate])
    return (cv2.dilate(candidates.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & outline


def _find_between(mask: np.ndarray) -> np.ndarray:
    """Find where each piece of a mask is near another one: a surface that goes on there joins the pieces."""
    count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    between = np.zeros_like(mask)
    for label in range(1, count if count > 2 else 1):
        piece = pieces == label
        distance = cv2.distanceTransform((piece | ~mask).astype(np.uint8), cv2.DIST_L2, 5)  # to the other pieces
        between |= piece & (distance < PIECE_GAP_FRACTION * float(piece.sum()) ** 0.5)
    return between


def _choose_joint(candidates: np.ndarray, outline: np.ndarray, mask: np.ndarray, *, motion: str) -> np.ndarray | None:
    """Choose the longest piece of an outline that may be the joint; below the middle for all motions but a flap."""
    count, labels = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=8)
    occupied = np.nonzero(mask.any(axis=1))[0]
    is_eligible = np.ones(len(mask), bool) if motion == "flap" else np.arange(len(mask)) >= occupied.mean()
    best, best_length = None, MIN_JOINT_FRACTION * outline.sum()
    for label in range(1, count):
        part = labels == label
        length = (part & is_eligible[:, None]).sum()
        if length > best_length:
            best, best_length = part, length
    if best is not None or motion == "flap":
        return best
    base_row = occupied[-1] - BASE_FRACTION * (occupied[-1] - occupied[0])
    return outline & (np.arange(len(mask)) >= base_row)[:, None]


def _bend_surface(mask: np.ndarray) -> Bend:
    """Bend a part of a surface: what is around it goes along, less with every step away from it."""
    reach = HALO_FRACTION * float(mask.sum()) ** 0.5
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    extended = distance <= reach
    height, width = mask.shape
    to_side_x, to_side_y = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (width, height))
    to_border = np.minimum(to_side_x, to_side_y[:, None])  # beyond the border there is nothing to stretch
    rows, columns = np.nonzero(mask)
    pivot = (float(columns.mean()) + 0.5, float(rows.max()) + 1)
    return Bend(extended, _smooth(1 - distance / reach) * _smooth(to_border / reach), mask, pivot)


def _smooth(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


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


def _compute_weight(mask: np.ndarray, joint: np.ndarray) -> np.ndarray:
    distance = cv2.distanceTransform((~joint).astype(np.uint8), cv2.DIST_L2, 5)
    return _smooth(distance / max(1.0, FOLLOWING_FRACTION * float(distance[mask].max())))


def _complete_mask(mask: np.ndarray, joint: np.ndarray, *, motion: str) -> np.ndarray:
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
