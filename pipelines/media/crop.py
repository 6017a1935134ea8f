"""Fitting of images to the sizes of a model: the size nearest to an image's aspect ratio, scaling and centre crop.

Sizes are (width, height) in px.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dianjing.errors import Message


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
