"""Mattes: soft edges for the masks of regions, at the resolution of the image.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W), mattes float32 (H, W) on [0, 1].
"""

import cv2
import numpy as np

from dianjing.pipelines.segmentation.guided_filter import apply_guided_filter

RADIUS_FRACTION = 0.02  # of the root of a mask's area: half the width of the band in which an edge may be soft
MIN_RADIUS_PX = 1
REGULARIZATION = 1e-4  # variance of colors on [0, 1] below which the guided filter takes an area for flat
LOW, HIGH = 0.08, 0.92  # levels of the filtered mask that become 0 and 1
WORKING_RADIUS_PX = 4  # of the windows: on an image as small, single hairs and the gaps between them are one edge
HAIR_REACH = 4  # radii from the edge: so far hair is followed
MAX_HAIR_WIDTH = 1  # radii: what is wider beyond the band is no hair
MIN_HAIR_OPACITY = 0.3


def compute_matte(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the opacity of an object from its mask: soft where the image is, in a band about the edge and along hair.

    The band is narrow and grows with the object. Hair that leaves it is followed to its tips: a mask that was found on
    a smaller image ends where hair becomes thinner than the px of that.
    """
    matte = mask.astype(np.float32)
    if not mask.any() or mask.all():
        return matte
    radius = get_edge_radius_px(mask)
    box = _get_box(mask, 2 * HAIR_REACH * radius)
    part_image, part_mask = np.ascontiguousarray(image[box]), mask[box]
    soft = _filter_mask(part_image, matte[box], radius=2 * radius)
    to_outside, to_mask = _measure_distances(part_mask, margin=radius), _measure_distances(~part_mask, margin=radius)
    soft[to_outside > radius] = 1
    soft[to_mask > radius] = 0
    is_beyond = (to_mask > radius) & (to_mask <= HAIR_REACH * radius)
    matte[box] = _follow_hair(part_image, soft, is_beyond, radius=radius)
    return matte


def get_edge_radius_px(mask: np.ndarray) -> int:
    """Half the width in px of the band about the edge of a mask in which its matte may be soft."""
    return max(MIN_RADIUS_PX, round(RADIUS_FRACTION * float(mask.sum()) ** 0.5))


def _get_box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The box of a mask with a margin, within the image."""
    rows, columns = (np.nonzero(mask.any(axis=axis))[0] for axis in (1, 0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def _filter_mask(image: np.ndarray, mask: np.ndarray, *, radius: int) -> np.ndarray:
    """Filter a mask, float32, by the colors within a radius: float32 on [0, 1]."""
    filtered = apply_guided_filter(
        image, mask, radius=radius, regularization=REGULARIZATION, min_shrink=radius / WORKING_RADIUS_PX
    )
    return np.clip((filtered - LOW) / (HIGH - LOW), 0, 1)


def _follow_hair(image: np.ndarray, matte: np.ndarray, is_beyond: np.ndarray, *, radius: int) -> np.ndarray:
    """Follow hair from a matte to its tips, in the area beyond its band: what is thin, of its color and joined to it.

    Wider windows show which colors the object has where the mask covers little of a hair.
    """
    wide = _filter_mask(image, matte, radius=HAIR_REACH * radius)
    is_inside = matte > MIN_HAIR_OPACITY
    similar = (is_inside | (is_beyond & (wide > MIN_HAIR_OPACITY))).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(MAX_HAIR_WIDTH * radius / 2)) + 1,) * 2)
    thick = cv2.dilate(cv2.morphologyEx(similar, cv2.MORPH_OPEN, disc), np.ones((3, 3), np.uint8)) > 0
    hair = is_beyond & (similar > 0) & ~thick
    count, labels = cv2.connectedComponents((hair | is_inside).astype(np.uint8), connectivity=8)
    is_joined = np.zeros(count, bool)
    is_joined[labels[is_inside]] = True
    hair &= is_joined[labels]
    around = is_beyond & (cv2.dilate(hair.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
    return np.where(around, np.maximum(matte, wide), matte)


def _measure_distances(mask: np.ndarray, *, margin: int) -> np.ndarray:
    """Measure the distance of each px from what is no mask, float32 (H, W); beyond the border it goes on as there."""
    padded = np.pad(mask.astype(np.uint8), margin + 1, mode="edge")
    return cv2.distanceTransform(padded, cv2.DIST_L2, 3)[margin + 1 : -margin - 1, margin + 1 : -margin - 1]
