"""Fitting of images and their loss masks to a bucket shape: cropped or padded, mirrored or not.

H height, W width in pixels.
"""

from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import WHITE
from dianjing.pipelines.media.crop import resize_crop
from dianjing.pipelines.media.image import open_image_file
from dianjing.pipelines.media.mask import select_opaque, select_white
from dianjing.train.data.samples import SampleRecord, read_source
from dianjing.train.data.video_clips import read_motion_mask

MIN_COUNTED_LEVEL = 128  # of 255, in masks
BLACK = (0, 0, 0)


def fit_image(image: Image.Image, record: SampleRecord, *, height: int, width: int) -> Image.Image:
    """The image at the size of its bucket, cropped or padded with white, and mirrored if the record says so."""
    fitted = _fit(image, record, height=height, width=width, padding=WHITE)
    return ImageOps.mirror(fitted) if record.is_flipped else fitted


def fit_control_image(image: Image.Image, record: SampleRecord, *, height: int, width: int) -> Image.Image:
    """A control image transformed as its image is; padding is black, as nothing is to be followed there."""
    fitted = _fit(image, record, height=height, width=width, padding=BLACK)
    return ImageOps.mirror(fitted) if record.is_flipped else fitted


def fit_mask(mask: Image.Image, record: SampleRecord, *, height: int, width: int) -> np.ndarray:
    """A mask of the image, transformed as the image is, bool (H, W); padding is not in the mask."""
    fitted = _fit(mask.convert("L"), record, height=height, width=width, padding=0)
    return np.asarray(ImageOps.mirror(fitted) if record.is_flipped else fitted) >= MIN_COUNTED_LEVEL


def _fit(
    image: Image.Image, record: SampleRecord, *, height: int, width: int, padding: int | tuple[int, ...]
) -> Image.Image:
    if record.fit == "crop":
        return resize_crop(image, height=height, width=width)[0]
    scale = min(width / image.width, height / image.height)
    size = [max(1, min(limit, round(side * scale))) for side, limit in zip(image.size, (width, height), strict=True)]
    padded = Image.new(image.mode, (width, height), padding)
    resized = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    padded.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    return padded


def read_loss_mask(record: SampleRecord, size: tuple[int, int]) -> Image.Image | None:
    """The mask of what the loss counts, mode "L", for an image of (width, height); None if it counts everything.

    Raises: DianjingError for a mask that cannot be read, is of another size, or is empty.
    """
    if record.loss_mask is None:
        return None
    if record.loss_mask == "alpha":
        file = BytesIO(read_source(record.source, name=record.name))
        selected = open_image_file(file, select_opaque, name=record.name)
    else:
        name = f"mask of {record.name}"
        file = BytesIO(read_source(record.loss_mask, name=name))
        selected = open_image_file(file, partial(select_white, name=name), name=name)
    mask = Image.fromarray(selected.astype(np.uint8) * 255)
    if mask.size != size:
        raise DianjingError(
            "loss_mask_size",
            name=record.name,
            width=mask.width,
            height=mask.height,
            image_width=size[0],
            image_height=size[1],
        )
    if not selected.any():
        raise DianjingError("loss_mask_empty", name=record.name)
    return mask


def make_loss_mask(record: SampleRecord, size: tuple[int, int], *, height: int, width: int) -> np.ndarray | None:
    """The pixels that the loss counts of an image of `size` (width, height) in its bucket, bool (H, W).

    None if it counts all of them. Raises: DianjingError as `read_loss_mask`.
    """
    mask = read_loss_mask(record, size)
    if mask is None and record.fit == "crop":
        return None
    counted = fit_mask(Image.new("L", size, 255) if mask is None else mask, record, height=height, width=width)
    if not counted.any():
        raise DianjingError("loss_mask_empty", name=record.name)
    return None if counted.all() else counted


def fit_motion_mask(record: SampleRecord, size: tuple[int, int], *, height: int, width: int) -> np.ndarray:
    """The mask of a motion label of a video of `size` (width, height), transformed as its frames are: bool (H, W).

    Raises: DianjingError for a mask that cannot be read, is of another size, or is empty in this shape.
    """
    mask = read_motion_mask(record, size=size)
    fitted = fit_mask(Image.fromarray(mask.astype(np.uint8) * 255), record, height=height, width=width)
    if not fitted.any():
        raise DianjingError("sample_mask_cropped_away", name=record.name, width=width, height=height)
    return fitted
