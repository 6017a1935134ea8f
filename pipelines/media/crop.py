"""Fitting of images to the sizes of a model: the size nearest to an image's aspect ratio, scaling and centre crop.

Sizes are (width, height) in px.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from dianjing.errors import Message
from dianjing.weights.registry import HUNYUAN_SIZES

MAX_DEFAULT_ASPECT_RATIO = 2.0  # the motions of `sticker` are as accurate up to here as in its square
MAX_AREA_CHANGE = 0.25
MAX_START_AREA_RATIO = 4.0  # of an image that is worked on in its own size, to the area the model was trained on
TRAINED_SIZES = tuple((height, width) for width, height in HUNYUAN_SIZES)  # in px, as diffusers orders them
AREA_WEIGHT = 0.2  # of a relative change of the area, compared to a fraction that is cropped


@dataclass(frozen=True, kw_only=True)
class CropTransform:
    """Scaling and centre crop of an image; sizes are (width, height) in px.

    A point (x, y) of the source image is at (x scale - left, y scale - top) of the result.
    """

    source_size: tuple[int, int]
    target_size: tuple[int, int]
    scale: float
    left: float
    top: float

    def transform_point(self, x: float, y: float) -> tuple[float, float]:
        """Map a point in px of the source image to the result."""
        return x * self.scale - self.left, y * self.scale - self.top

    def invert_point(self, x: float, y: float) -> tuple[float, float]:
        """Map a point in px of the result to the source image."""
        return (x + self.left) / self.scale, (y + self.top) / self.scale

    def to_message(self) -> Message:
        """Describe scaling and crop, in English and Chinese."""
        (width, height), (new_width, new_height) = self.source_size, self.target_size
        if self.source_size == self.target_size:
            return Message("crop_none", width=width, height=height)
        sizes: dict[str, object] = {"width": width, "height": height, "new_width": new_width, "new_height": new_height}
        sizes["scale"] = f"{self.scale:.3g}"
        across, down = width * self.scale - new_width, height * self.scale - new_height
        if across >= 1:
            return Message("crop_width", cropped=f"{across:.0f}", **sizes)
        if down >= 1:
            return Message("crop_height", cropped=f"{down:.0f}", **sizes)
        return Message("crop_scaled", **sizes)

    def __str__(self) -> str:
        return self.to_message().render("en")


def get_nearest_trained_size(height: int, width: int) -> tuple[int, int]:
    """Find the trained (height, width) in px with the nearest aspect ratio and, among these, the nearest area."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(size[1] / size[0] - width / height), abs(size[0] * size[1] - height * width)

    return min(TRAINED_SIZES, key=distance)


@cache
def list_default_sizes(*, base_px: int, multiple_px: int) -> tuple[tuple[int, int], ...]:
    """List sizes of about base_px ** 2 pixels whose sides are multiples of multiple_px; the square of base_px is first.

    The area differs by at most MAX_AREA_CHANGE, and the longer side is at most MAX_DEFAULT_ASPECT_RATIO of the shorter.
    """
    base = max(1, round(base_px / multiple_px))
    longest = math.ceil(base * math.sqrt(MAX_DEFAULT_ASPECT_RATIO * (1 + MAX_AREA_CHANGE)))
    sides = range(1, longest + 1)
    pairs = [
        (columns, rows)
        for columns, rows in product(sides, sides)
        if max(columns, rows) <= MAX_DEFAULT_ASPECT_RATIO * min(columns, rows)
        and abs(columns * rows / base**2 - 1) <= MAX_AREA_CHANGE
    ]
    pairs.sort(key=lambda pair: pair != (base, base))
    return tuple((columns * multiple_px, rows * multiple_px) for columns, rows in pairs)


def choose_size(
    size: tuple[int, int], *, base_px: int, multiple_px: int, width: int | None = None, height: int | None = None
) -> tuple[int, int]:
    """Choose the size that a model generates from an image of `size`: that of the list above which crops it least.

    base_px: side of the square that the model was trained on. width, height: sides that are chosen already; the other
    one follows the aspect ratio of the image. A tenth of the area more or less weighs as much as 2 % of it cropped.
    """
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, _round_to_multiple(width * size[1] / size[0], multiple_px)
    if height is not None:
        return _round_to_multiple(height * size[0] / size[1], multiple_px), height

    def measure_cost(candidate: tuple[int, int]) -> float:
        left, top, right, bottom = compute_crop_box(size, candidate)
        cropped_fraction = 1 - (right - left) * (bottom - top) / (size[0] * size[1])
        return float(cropped_fraction) + AREA_WEIGHT * abs(candidate[0] * candidate[1] / base_px**2 - 1)

    return min(list_default_sizes(base_px=base_px, multiple_px=multiple_px), key=measure_cost)


def choose_start_size(
    size: tuple[int, int], *, base_px: int, multiple_px: int, width: int | None = None, height: int | None = None
) -> tuple[int, int]:
    """Choose the size at which a model works on an image of `size`: the image's own, rounded down to a multiple.

    For an image of more than MAX_START_AREA_RATIO times the area that the model was trained on, or of its inverse or
    less, and where one side is chosen already, as `choose_size`.
    """
    ratio = size[0] * size[1] / base_px**2
    is_near = 1 / MAX_START_AREA_RATIO < ratio <= MAX_START_AREA_RATIO and min(size) >= multiple_px
    if width is None and height is None and is_near:
        return size[0] // multiple_px * multiple_px, size[1] // multiple_px * multiple_px
    return choose_size(size, base_px=base_px, multiple_px=multiple_px, width=width, height=height)


def _round_to_multiple(side: float, multiple_px: int) -> int:
    return max(1, round(side / multiple_px)) * multiple_px


def compute_crop_box(size: tuple[Any, Any], target_size: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Compute the largest centred box (left, top, right, bottom) of an image that has the aspect ratio of the target.

    size, target_size: (width, height) as numbers or NumPy arrays, which broadcast. The box is inside the image and not
    empty, whatever the rounding of its floats.
    """
    (width, height), (target_width, target_height) = size, target_size
    scale = np.maximum(target_width / width, target_height / height)
    left = np.maximum((width - target_width / scale) / 2, 0)
    top = np.maximum((height - target_height / scale) / 2, 0)
    return left, top, np.minimum(width - left, width), np.minimum(height - top, height)


def resize_crop(image: Image.Image, *, width: int, height: int) -> tuple[Image.Image, CropTransform]:
    """Scale an image to cover width x height px and crop its centre to that size."""
    left, top, right, bottom = map(float, compute_crop_box(image.size, (width, height)))
    scale = max(width / image.width, height / image.height)
    transform = CropTransform(
        source_size=image.size, target_size=(width, height), scale=scale, left=left * scale, top=top * scale
    )
    if image.size == (width, height):
        return image, transform
    return image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, right, bottom)), transform
