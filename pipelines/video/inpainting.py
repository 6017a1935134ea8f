"""Inpainting of the background behind a region that moves away, so that the texture goes on and shadows fade.

H height, W width; images are uint8 (H, W, 3), holes bool (H, W). Small images are float32 (h, w, 3) on [0, 1].
"""

import cv2
import numpy as np

from dianjing.pipelines.video.patch_filling import fill_by_patches, push_pull

CONTEXT_FRACTION = 0.6  # of the hole's sides: how far around it patches are taken from
MIN_CONTEXT_PX = 12
WORKING_SIDE_PX = 160  # longest side of a hole with its context at which patches are compared
SHADOW_REACH_FRACTION = 0.15  # of the root of a hole's area: how wide the shadow of an object may be
MIN_SHADOW_REACH_PX = 3  # on the small image
SHADOW_LUMINANCE = 0.55  # of what is beyond it: what is darker is a shadow
MAX_SHADOW_BEYOND = 0.1  # of a dark area: as much of a shadow may lie beyond that reach
MAX_SHADOW_GAP_PX = 2.5  # on the small image, between a hole and its shadow
MIN_LIGHT_FRACTION = 0.05  # of an image: less than this beyond hole and shadow is nothing to fill from


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
    shrink = max(1.0, max(height, width) / WORKING_SIDE_PX)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small = _shrink_known(image, hole, size)
    small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
    if small_hole.all():
        small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1 - 1e-3
    shadow = find_shadow(small, small_hole)
    unknown = small_hole | shadow
    result = fill_by_patches(small, unknown)
    if result is None:
        smooth = np.clip(push_pull(small, small_hole) * 255, 0, 255).round().astype(np.uint8)
        return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    filled, offsets = result
    enlarged = _enlarge(image, hole, np.where(small_hole[..., None], filled, small), filled, offsets)
    if shadow.any():
        light = _fade_shadow(small, filled, small_hole, shadow)
        enlarged *= cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return enlarged.round().clip(0, 255).astype(np.uint8)


def _shrink_known(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink an image by the mean of its pixels outside the hole: float32 on [0, 1], zero where there are none."""
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(image.astype(np.float32) * known[..., None], size, interpolation=cv2.INTER_AREA)
    return values / (255 * np.maximum(weights, 1e-3)[..., None])


def find_shadow(small: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Find the band along a hole that is far darker than what lies beyond it, bool (h, w).

    What is as dark beyond the band is no shadow: a dark stripe, or another object.
    """
    reach = _get_shadow_reach(hole)
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    is_beyond = distance > reach
    if is_beyond.mean() < MIN_LIGHT_FRACTION:
        return np.zeros_like(hole)
    beyond = cv2.GaussianBlur(push_pull(small, ~is_beyond).mean(axis=-1), (0, 0), reach)
    is_dark = ~hole & (small.mean(axis=-1) < SHADOW_LUMINANCE * beyond)
    _, labels = cv2.connectedComponents(is_dark.astype(np.uint8), connectivity=4)
    sizes, sizes_beyond = np.bincount(labels.ravel()), np.bincount(labels[is_beyond], minlength=labels.max() + 1)
    is_shadow = sizes_beyond <= MAX_SHADOW_BEYOND * sizes
    is_shadow[0] = False
    touching = np.unique(labels[distance <= MAX_SHADOW_GAP_PX])
    shadow = is_shadow[labels] & np.isin(labels, touching)
    penumbra = cv2.dilate(shadow.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return penumbra & ~hole if shadow.any() else shadow


def _get_shadow_reach(hole: np.ndarray) -> float:
    return max(MIN_SHADOW_REACH_PX, SHADOW_REACH_FRACTION * float(hole.sum()) ** 0.5)


def _fade_shadow(small: np.ndarray, filled: np.ndarray, hole: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """How light a shadow leaves the places of a hole, float32 (h, w): as at its rim, then ever lighter."""
    ratio = (cv2.blur(small.mean(axis=-1), (3, 3)) + 0.01) / (cv2.blur(filled.mean(axis=-1), (3, 3)) + 0.01)
    rim = np.where(shadow, np.minimum(ratio, 1), 1).astype(np.float32)
    distance, labels = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.ones(int(labels.max()) + 1, np.float32)
    by_label[labels[~hole]] = rim[~hole]
    reach = min(_get_shadow_reach(hole), float(distance.max()))
    dark = (1 - by_label[labels]) * (0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / reach, 1)))
    light = np.where(hole, 1 - dark, rim)
    blurred = cv2.GaussianBlur(light, (0, 0), reach / 4)
    share = np.minimum(distance / (reach / 2), 1)  # smooth along the rim, but exact at it
    return (light * (1 - share) + blurred * share).astype(np.float32)


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
    return result
