"""Shadows that objects cast right beside them: where they are, and how dark.

H height, W width; images are float32 (h, w, 3) on [0, 1] where they are small, else uint8 (H, W, 3); holes, which are
where objects are, and shadows are bool.
"""

import cv2
import numpy as np

from dianjing.pipelines.video.smooth_filling import push_pull

REACH_FRACTION = 0.15  # of the root of a hole's area: how wide the shadow of an object may be
MIN_REACH_PX = 3
SHADOW_LUMINANCE = 0.55  # of what is beyond it: what is darker is a shadow
PENUMBRA_LUMINANCE = 0.88  # of the same: so light may its soft edge be
PENUMBRA_FRACTION = 0.4  # of the reach: how far it may go on beyond the shadow
MAX_BEYOND = 0.1  # of a dark area: as much of a shadow may lie beyond that reach
MAX_GAP_PX = 2.5  # between a hole and its shadow
MIN_LIGHT_FRACTION = 0.05  # of an image: less than this beyond hole and shadow is nothing to compare with
EDGE_PX, FAR_PX = 1.5, 6.0  # to both sides of an edge: the step at it, and the whole difference
MAX_STEP = 0.5  # of the difference: the edge of a shadow is soft, that of a dark object is not
MIN_OPACITY = 0.02
FILLED_SIDE_PX = 256  # longest side of the image on which a shadow is continued below its object


def get_shadow_reach(hole: np.ndarray) -> float:
    """How wide in px the shadow of an object may be."""
    return max(MIN_REACH_PX, REACH_FRACTION * float(hole.sum()) ** 0.5)


def find_shadow(small: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Find the band along a hole that is far darker than what lies beyond it, bool (h, w).

    What is as dark beyond the band is no shadow: a dark stripe, or another object.
    """
    reach = get_shadow_reach(hole)
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    is_beyond = distance > reach
    if is_beyond.mean() < MIN_LIGHT_FRACTION:
        return np.zeros_like(hole)
    is_dark = ~hole & (small.mean(axis=-1) < SHADOW_LUMINANCE * _get_light(small, is_beyond, reach))
    _, labels = cv2.connectedComponents(is_dark.astype(np.uint8), connectivity=4)
    sizes, sizes_beyond = np.bincount(labels.ravel()), np.bincount(labels[is_beyond], minlength=labels.max() + 1)
    is_shadow = sizes_beyond <= MAX_BEYOND * sizes
    is_shadow[0] = False
    touching = np.unique(labels[distance <= MAX_GAP_PX])
    return is_shadow[labels] & np.isin(labels, touching)


def _get_light(small: np.ndarray, is_beyond: np.ndarray, reach: float) -> np.ndarray:
    """The luminance that is expected without a shadow, (h, w)."""
    return cv2.GaussianBlur(push_pull(small, ~is_beyond).mean(axis=-1), (0, 0), reach)


def find_soft_shadow(small: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Find the shadow along a hole with all of its penumbra; none where its edge is as sharp as that of an object."""
    core = find_shadow(small, hole)
    if not core.any() or not _is_soft(small, hole, core):
        return np.zeros_like(hole)
    reach = get_shadow_reach(hole)
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    from_core = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    light = _get_light(small, distance > reach, reach)
    blurred = cv2.GaussianBlur(small.mean(axis=-1), (0, 0), 1)
    is_dim = (blurred < PENUMBRA_LUMINANCE * light) & (from_core <= PENUMBRA_FRACTION * reach)
    shadow = cv2.dilate((core | is_dim).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return shadow & ~hole & (from_core <= PENUMBRA_FRACTION * reach + 1)


def _is_soft(small: np.ndarray, hole: np.ndarray, core: np.ndarray) -> bool:
    """True if the luminance rises slowly across the outer edge of a shadow."""
    inside = cv2.distanceTransform(core.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    from_hole = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    luminance = small.mean(axis=-1)
    means = []
    for distance, low, high in (
        (inside, FAR_PX / 2, FAR_PX),
        (inside, 0, EDGE_PX),
        (outside, 0, EDGE_PX),
        (outside, FAR_PX / 2, FAR_PX),
    ):
        selected = (distance > low) & (distance <= high) & (from_hole > EDGE_PX)
        if not selected.any():
            return False
        means.append(float(luminance[selected].mean()))
    return means[2] - means[1] < MAX_STEP * (means[3] - means[0])


def fade_shadow(small: np.ndarray, filled: np.ndarray, hole: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """How light a shadow leaves the places of a hole, float32 (h, w): as at its rim, then ever lighter."""
    ratio = (cv2.blur(small.mean(axis=-1), (3, 3)) + 0.01) / (cv2.blur(filled.mean(axis=-1), (3, 3)) + 0.01)
    rim = np.where(shadow, np.minimum(ratio, 1), 1).astype(np.float32)
    distance, labels = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.ones(int(labels.max()) + 1, np.float32)
    by_label[labels[~hole]] = rim[~hole]
    reach = min(get_shadow_reach(hole), float(distance.max()))
    dark = (1 - by_label[labels]) * (0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / reach, 1)))
    light = np.where(hole, 1 - dark, rim)
    blurred = cv2.GaussianBlur(light, (0, 0), reach / 4)
    share = np.minimum(distance / (reach / 2), 1)  # smooth along the rim, but exact at it
    return (light * (1 - share) + blurred * share).astype(np.float32)


def measure_opacity(image: np.ndarray, background: np.ndarray, hole: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """How much light of the background a shadow takes away, float32 (H, W) on [0, 1].

    Below the object, where it cannot be seen, it goes over smoothly from the dark side of the hole to the light one.
    """
    ratio = (cv2.blur(image.mean(axis=-1), (3, 3)) + 2.5) / (cv2.blur(background.mean(axis=-1), (3, 3)) + 2.5)
    known = (~hole).astype(np.float32)
    dark = np.where(shadow, 1 - np.minimum(ratio, 1), 0).astype(np.float32) * known
    sigma = max(1.0, get_shadow_reach(hole) / 8)
    opacity = cv2.GaussianBlur(dark, (0, 0), sigma) / np.maximum(cv2.GaussianBlur(known, (0, 0), sigma), 1e-3)
    opacity = np.where(hole, _fill_smoothly(opacity, hole), opacity)
    opacity = cv2.GaussianBlur(opacity.astype(np.float32), (0, 0), sigma / 2).clip(0, 1)
    opacity[~(hole | shadow) | (opacity < MIN_OPACITY)] = 0
    return opacity


def _fill_smoothly(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of values (H, W) smoothly, as seen on a smaller image."""
    height, width = hole.shape
    shrink = max(1.0, max(height, width) / FILLED_SIDE_PX)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(values.astype(np.float32) * known, size, interpolation=cv2.INTER_AREA)
    filled = push_pull((small / np.maximum(weights, 1e-3))[..., None], weights < 1e-3)[..., 0]
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
