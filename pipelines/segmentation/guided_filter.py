"""Guided filter: a mask takes the edges of an image.

H height, W width; images are uint8 (H, W, 3), masks float32 (H, W).
"""

import cv2
import numpy as np

WORKING_PIXELS = 400_000  # the filter's coefficients are computed on at most this many pixels


def apply_guided_filter(
    image: np.ndarray, mask: np.ndarray, *, radius: int, regularization: float, min_shrink: float = 1.0
) -> np.ndarray:
    """Filter a mask so that its edges follow those of the image.

    radius: half the side in px of the windows in which the mask is a linear function of the colors. regularization:
    variance of colors on [0, 1] below which an area is taken for flat. min_shrink: how many times smaller the image
    on which the coefficients are computed is at least.
    Source: the guided filter with a color guide (He et al. 2013, "Guided image filtering"), whose coefficients may be
    computed on a smaller image (He and Sun 2015, "Fast guided filter").
    """
    height, width = mask.shape
    shrink = max(min_shrink, 1.0, (height * width / WORKING_PIXELS) ** 0.5)
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
        variance[..., a, b] = variance[..., b, a] = product + (regularization if a == b else 0)
    slope = np.linalg.solve(variance, covariance[..., None])[..., 0]
    intercept = mean_target - (slope * mean_guide).sum(axis=-1)
    coefficients = cv2.blur(np.concatenate([slope, intercept[..., None]], axis=-1), window)
    filtered = np.empty_like(mask)
    for channel in range(4):
        part = cv2.resize(np.ascontiguousarray(coefficients[..., channel]), (width, height))
        part = part if channel == 3 else part * (image[..., channel].astype(np.float32) / 255)
        filtered = part if channel == 0 else filtered + part
    return filtered
