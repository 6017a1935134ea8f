"""Inpainting of the background behind a region that moves away, so that the texture goes on and shadows fade.

H height, W width; images are uint8 (H, W, 3), holes bool (H, W). Small images are float32 (h, w, 3) on [0, 1].
"""

import cv2
import numpy as np

from dianjing.pipelines.video.shadows import MAX_GAP_PX, fade_shadow, find_shadow, find_soft_shadow
from dianjing.pipelines.video.shift_filling import fill_by_shifts
from dianjing.pipelines.video.smooth_filling import copy_seamlessly, push_pull

CONTEXT_FRACTION = 0.6  # of the hole's sides: how far around it patches are taken from
MIN_CONTEXT_PX = 12
WORKING_SIDE_PX = 160  # longest side of a hole with its context at which patches are compared
RIM_PX = 4  # within a hole, where fine detail is joined


def inpaint(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of an image with what patches from around it show; other pixels stay as they are.

    The patches are compared on a smaller image; fine detail is copied from where they come from. The shadow of the
    object, a dark band along the hole, is not taken for the background: it fades out within the hole.
    """
    if not hole.any():
        return image.copy()
    box = _get_context(hole)
    part, part_hole = image[box], hole[box]
    if part_hole.all():
        return image.copy()  # nothing to take the background from
    filled = image.copy()
    filled[box] = np.where(part_hole[..., None], _fill(part, part_hole), part)
    return filled


def find_contact_shadow(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Find the soft shadow along an object that stands in a hole, bool (H, W): all False where there is none."""
    shadow = np.zeros_like(hole)
    if not hole.any() or hole.all():
        return shadow
    box = _get_context(hole)
    part = hole[box]
    size = _get_working_size(part)
    small_hole = cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
    small = find_soft_shadow(_shrink_known(image[box], part, size), small_hole).astype(np.float32)
    large = (cv2.resize(small, part.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.25).astype(np.uint8)
    gap = max(1, round(MAX_GAP_PX * part.shape[1] / size[0]))  # as small a gap belongs to the shadow
    near_both = [cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3) <= gap for mask in (large, part.astype(np.uint8))]
    shadow[box] = (large.astype(bool) | (near_both[0] & near_both[1])) & ~part if large.any() else False
    return shadow


def _widen(shadow: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A shadow with the narrow band in which it becomes lighter."""
    return (cv2.dilate(shadow.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~hole


def _get_context(hole: np.ndarray) -> tuple[slice, slice]:
    """The box of a hole and its surroundings."""
    box = []
    for axis in (1, 0):
        (indices,) = np.nonzero(hole.any(axis=axis))
        first, last = int(indices[0]), int(indices[-1]) + 1
        margin = max(MIN_CONTEXT_PX, round(CONTEXT_FRACTION * (last - first)))
        box.append(slice(max(0, first - margin), min(hole.shape[1 - axis], last + margin)))
    return box[0], box[1]


def _fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    height, width = hole.shape
    size = _get_working_size(hole)
    small = _shrink_known(image, hole, size)
    small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
    if small_hole.all():
        small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1 - 1e-3
    shadow = _widen(find_shadow(small, small_hole), small_hole)
    unknown = small_hole | shadow
    result = fill_by_shifts(small, unknown)
    if result is None:
        smooth = np.clip(push_pull(small, small_hole) * 255, 0, 255).round().astype(np.uint8)
        return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    filled, offsets = result
    enlarged = _enlarge(image, hole, np.where(small_hole[..., None], filled, small), filled, offsets)
    if shadow.any():
        light = fade_shadow(small, filled, small_hole, shadow)
        enlarged *= cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return enlarged.round().clip(0, 255).astype(np.uint8)


def _get_working_size(hole: np.ndarray) -> tuple[int, int]:
    height, width = hole.shape
    shrink = max(1.0, max(height, width) / WORKING_SIDE_PX)
    return max(1, round(width / shrink)), max(1, round(height / shrink))


def _shrink_known(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink an image by the mean of its pixels outside the hole: float32 on [0, 1], zero where there are none."""
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(image.astype(np.float32) * known[..., None], size, interpolation=cv2.INTER_AREA)
    return values / (255 * np.maximum(weights, 1e-3)[..., None])


def _enlarge(
    image: np.ndarray, hole: np.ndarray, small: np.ndarray, filled: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Enlarge a small filled image, with the detail of the places that its pixels come from: float32 (H, W, 3)."""
    height, width = hole.shape
    small_height, small_width = filled.shape[:2]
    result = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR) * 255
    own = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) * 255
    detail = np.where(hole[..., None], 0, image.astype(np.float32) - own)
    rows, columns = np.nonzero(hole)
    small_rows = np.minimum(rows * small_height // height, small_height - 1)
    small_columns = np.minimum(columns * small_width // width, small_width - 1)
    scale = np.array([height / small_height, width / small_width])
    moved = np.round(offsets[small_rows, small_columns] * scale).astype(int)
    from_rows, from_columns = (rows + moved[:, 0]).clip(0, height - 1), (columns + moved[:, 1]).clip(0, width - 1)
    result[rows, columns] += detail[from_rows, from_columns]
    return _join_rim(np.where(hole[..., None], result, image) / np.float32(255), hole, moved) * 255


def _join_rim(filled: np.ndarray, hole: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Join the fine detail on both sides of the rim of a filled hole, whose N pixels were moved by (N, 2)."""
    distance = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
    offsets = np.zeros((*hole.shape, 2), int)
    offsets[hole] = moved
    return copy_seamlessly(filled, hole & (distance <= RIM_PX), offsets)
