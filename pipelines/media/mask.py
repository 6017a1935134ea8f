"""Masks: which pixels of an image are selected, for every entry point that takes a mask.

H height, W width; masks are bool (H, W), true where selected.
"""

from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import BLACK, UINT16_TO_UINT8, make_upright, read_orientation, to_rgb
from dianjing.pipelines.media.image import open_image_file

MIN_SELECTED_LEVEL = 128  # of 255


def select_white(image: Image.Image, *, name: object = "mask") -> np.ndarray:
    """Select the pixels of which any channel is at least half as bright as white; transparent ones count as black.

    An image whose only levels are 0 and 1 is a mask of numbers: 1 is selected.
    Raises: DianjingError for pixels that are not finite or out of range.
    """
    levels = np.asarray(to_rgb(image, name=name, background=BLACK)).max(axis=2)
    return levels >= MIN_SELECTED_LEVEL if levels.max() > 1 else levels > 0


def select_opaque(image: Image.Image) -> np.ndarray:
    """Select the pixels that are at least half opaque, upright by EXIF: all of an image without transparency."""
    alpha = Image.new("L", image.size, 255)
    if image.has_transparency_data:
        alpha = image.convert({"La": "LA"}.get(image.mode, image.mode)).convert("RGBA").getchannel("A")
    return np.asarray(make_upright(alpha, orientation=read_orientation(image))) >= MIN_SELECTED_LEVEL


def to_mask(mask: Any, *, name: object = "mask") -> np.ndarray:
    """Convert a PIL image of any mode, or an array, to a mask; white is selected, as in diffusers.

    mask: an array (H, W), (H, W, 1) or (H, W, 3) of bool, of integers from 0 to 255 (uint16: to 65535), or of floats to
    1 or 255; integers 0 and 1 alone are a mask of numbers. Or uint8 (H, W, 4), of which transparent pixels count as
    black.
    Raises: DianjingError for anything else, and for numbers that are not finite or out of range.
    """
    if isinstance(mask, Image.Image):
        return select_white(mask, name=name)
    array = np.asarray(mask)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
        return select_white(Image.fromarray(array), name=name)
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype.kind not in "buif" or not has_shape or not array.size:
        raise DianjingError("mask_array_unsupported", name=name, dtype=str(array.dtype), shape=str(array.shape))
    levels = array if array.ndim == 2 else array.max(axis=2)
    if array.dtype == bool:
        return levels
    if not np.isfinite(levels).all():
        raise DianjingError("image_not_finite", name=name)
    if levels.max() <= 1:
        return levels >= 0.5
    return levels >= MIN_SELECTED_LEVEL * (UINT16_TO_UINT8 if array.dtype == np.uint16 else 1)


def read_mask(file: str | Path | BinaryIO, *, size: tuple[int, int], name: object = None) -> np.ndarray:
    """Read a mask from an image file in which white is selected, for an image of `size` (width, height).

    name: the name of the mask in error messages; its path by default.
    Raises: DianjingError for a file that cannot be read, and as `check_mask`.
    """
    name = str(file) if name is None else name
    mask = open_image_file(file, partial(select_white, name=name), name=name)
    check_mask(mask, size=size, name=name)
    return mask


def read_mask_of_change(file: str | Path | BinaryIO, *, size: tuple[int, int], name: object = None) -> np.ndarray:
    """Read as `read_mask` the mask of what may change in an image, which may be all of it.

    Raises: DianjingError for a file that cannot be read, another size, and a mask that selects nothing.
    """
    name = str(file) if name is None else name
    mask = open_image_file(file, partial(select_white, name=name), name=name)
    check_mask_of_change(mask, size=size, name=name)
    return mask


def check_mask_of_change(mask: np.ndarray, *, size: tuple[int, int], name: object = "mask") -> None:
    """Raise DianjingError for a mask that is not of the image's (width, height) or selects nothing."""
    check_mask_size(mask, size=size, name=name)
    if not mask.any():
        raise DianjingError("mask_empty", name=name)


def check_mask(mask: np.ndarray, *, size: tuple[int, int], name: object = "mask") -> None:
    """Raise DianjingError for a mask that is not of the image's (width, height), is empty, or covers all of it."""
    check_mask_of_change(mask, size=size, name=name)
    if mask.all():
        raise DianjingError("mask_covers_image", name=name)


def check_mask_size(mask: np.ndarray, *, size: tuple[int, int], name: object) -> None:
    """Raise DianjingError for a mask (H, W) that is not of the image's (width, height)."""
    if mask.shape != size[::-1]:
        height, width = mask.shape
        raise DianjingError(
            "mask_size", name=name, width=width, height=height, image_width=size[0], image_height=size[1]
        )


def feather_mask(mask: np.ndarray, *, rim_px: float) -> np.ndarray:
    """Convert a mask to opacities, float32 (H, W): 1 where selected, falling to 0 in a rim of `rim_px` around it."""
    distance = _measure_distance(mask)
    return np.clip(1 - distance / (rim_px + 1), 0, 1).astype(np.float32)


def grow_mask(mask: np.ndarray, *, radius_px: int) -> np.ndarray:
    """Select also what is at most `radius_px` away from a selected pixel."""
    if radius_px <= 0:
        return mask
    distance = _measure_distance(mask)
    return distance <= radius_px


def _measure_distance(mask: np.ndarray) -> np.ndarray:
    """The distance of each pixel from the mask in px, 0 inside: float32 (H, W)."""
    import cv2  # not at the top: images that no mask concerns are generated without OpenCV

    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
