"""Mattes: soft edges for the masks of regions, at the resolution of the image.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W), mattes float32 (H, W) on [0, 1].
"""

import cv2
import numpy as np

from dianjing.pipelines.segmentation.guided_filter import apply_guided_filter

RADIUS_FRACTION = 0.02  # of the root of a mask's area: half the width of the band in which an edge may be soft
MIN_RADIUS_PX = 1
MAX_RADIUS_PX = 24
REGULARIZATION = 1e-4  # variance of colors on [0, 1] below which the guided filter takes an area for flat
LOW, HIGH = 0.08, 0.92  # levels of the filtered mask that become 0 and 1


def compute_matte(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the opacity of an object from its mask: soft where the image is, in a narrow band about the edge."""
    radius = get_edge_radius_px(mask)
    inner, outer = _erode(mask, radius), ~_erode(~mask, radius)
    if not (outer & ~inner).any():
        return mask.astype(np.float32)
    filtered = apply_guided_filter(image, mask.astype(np.float32), radius=2 * radius, regularization=REGULARIZATION)
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
