"""Mattes: soft edges for the masks of regions, at the resolution of the image.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W), mattes float32 (H, W) on [0, 1].
"""

import cv2
import numpy as np

RADIUS_FRACTION = 0.02  # of the root of a mask's area: half the width of the band in which an edge may be soft
MIN_RADIUS_PX = 1
MAX_RADIUS_PX = 24
REGULARIZATION = 1e-4  # variance of colors on [0, 1] below which the guided filter takes an area for flat
WORKING_PIXELS = 400_000  # the filter's coefficients are computed on at most this many pixels
LOW, HIGH = 0.08, 0.92  # levels of the filtered mask that become 0 and 1


def compute_matte(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the opacity of an object from its mask: soft where the image is, in a narrow band about the edge.

    Source: the guided filter with a color guide (He et al. 2013, "Guided image filtering"), whose coefficients may be
    computed on a smaller image (He and Sun 2015, "Fast guided filter").
    """
    radius = get_edge_radius_px(mask)
    inner, outer = _erode(mask, radius), ~_erode(~mask, radius)
    if not (outer & ~inner).any():
        return mask.astype(np.float32)
    filtered = _apply_guided_filter(image, mask.astype(np.float32), radius=2 * radius)
    matte = np.clip((filtered - LOW) / (HIGH - LOW), 0, 1)
    matte[inner] = 1
    matte[~outer] = 0
    return matte.astype(np.float32)


def get_edge_radius_px(mask: np.ndarray) -> int:
    """Half the width in px of the band about the edge of a mask in which its matte may be soft."""
    return int(np.clip(round(RADIUS_FRACTION * float(mask.sum()) ** 0.5), MIN_RADIUS_PX, MAX_RADIUS_PX))


def _erode(mask: np.ndarray, radius: int) -> np.ndarray:
    """Erode a mask by a disc; beyond the borders of the image it goes on as at the border."""
    padded = np.pad(mask.astype(np.uint8), radius + 1, mode="edge")
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[radius + 1 : -radius - 1, radius + 1 : -radius - 1]
    return distance > radius


def _apply_guided_filter(image: np.ndarray, mask: np.ndarray, *, radius: int) -> np.ndarray:
    """Filter a mask (H, W) so that its edges follow those of the image."""
    height, width = mask.shape
    shrink = max(1.0, (height * width / WORKING_PIXELS) ** 0.5)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    guide = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    target = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    window = (2 * max(1, round(radius / shrink)) + 1,) * 2
    mean_guide, mean_target = cv2.blur(guide, window), cv2.blur(target, window)
    covariance = cv2.blur(guide * target[..., None], window) - mean_guide * mean_target[..., None]
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    variance = np.empty((*target.shape, 3, 3), np.float32)
    for a, b in pairs:
        product = cv2.blur(guide[..., a] * guide[..., b], window) - mean_guide[..., a] * mean_guide[..., b]
        variance[..., a, b] = variance[..., b, a] = product + (REGULARIZATION if a == b else 0)
    slope = np.linalg.solve(variance, covariance[..., None])[..., 0]
    intercept = mean_target - (slope * mean_guide).sum(axis=-1)
    coefficients = cv2.blur(np.concatenate([slope, intercept[..., None]], axis=-1), window)
    filtered = np.empty_like(mask)
    for channel in range(4):
        part = cv2.resize(np.ascontiguousarray(coefficients[..., channel]), (width, height))
        part = part if channel == 3 else part * (image[..., channel].astype(np.float32) / 255)
        filtered = part if channel == 0 else filtered + part
    return filtered
