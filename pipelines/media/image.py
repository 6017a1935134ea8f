"""Images: opening, checking, fitting to a model's size, and PNG files with generation metadata.

Settings are iTXt chunks (`prompt`, `seed`, `settings`, `model`, `version`); the AIGC label stands in XMP.
H height, W width; images are uint8 (H, W, 3).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.aigc_label import XMP_KEY, make_xmp_packet
from dianjing.pipelines.media.atomic import write_atomic
from dianjing.pipelines.media.metadata import (
    GenerationMetadata,
    compute_pixels_sha256,
    parse_metadata,
    serialize_metadata,
)

MAX_IMAGE_PIXELS = 64_000_000  # protects the memory: no camera takes more
MAX_ASPECT_RATIO = 20
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
BACKGROUND_RGB = (255, 255, 255)  # behind transparent parts


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


def open_image(path: str | Path | BinaryIO, *, name: str | None = None) -> Image.Image:
    """Read the first frame of an image file as RGB, upright by its EXIF orientation.

    name: the name of the file in error messages; its path by default.
    Raises: DianjingError for a missing or damaged file, and for an image that is too large.
    """
    name = str(path) if name is None else name
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            check_image_size(*image.size, name=name)
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise DianjingError("file_missing", path=name) from None
    except (OSError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        raise DianjingError("image_unreadable", path=name, reason=str(error)) from None


def check_image_size(width: int, height: int, *, name: str = "image") -> None:
    """Raise DianjingError for an image that has too many pixels or too extreme an aspect ratio."""
    if width * height > MAX_IMAGE_PIXELS:
        raise DianjingError("image_too_large", name=name, width=width, height=height, maximum=f"{MAX_IMAGE_PIXELS:,}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise DianjingError("image_too_narrow", name=name, width=width, height=height, maximum=MAX_ASPECT_RATIO)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB: upright by EXIF, transparent parts over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        levels = np.asarray(image, np.float64)
        top = 65535 if levels.max() > 255 else 255
        image = Image.fromarray((levels.clip(0, top) / top * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*BACKGROUND_RGB, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def resize_crop(image: Image.Image, *, width: int, height: int) -> tuple[Image.Image, CropTransform]:
    """Scale an image to cover width x height px and crop its centre to that size."""
    scale = max(width / image.width, height / image.height)
    left, top = ((side * scale - to) / 2 for side, to in ((image.width, width), (image.height, height)))
    transform = CropTransform(source_size=image.size, target_size=(width, height), scale=scale, left=left, top=top)
    if image.size == (width, height):
        return image, transform
    box = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box), transform


def get_input_image_metadata(image: Image.Image, *, name: str | None = None) -> dict[str, object]:
    """Describe an input image for generation metadata: its name, if it has one, its size and a hash of its pixels."""
    image = to_rgb(image)
    described: dict[str, object] = {} if name is None else {"name": name}
    size = {"width": image.width, "height": image.height}
    return described | size | {"pixels_sha256": compute_pixels_sha256(np.asarray(image))}


def check_image(image: object) -> Image.Image:
    """Check and convert a PIL image of any mode, or a uint8 array (H, W, 3), to an RGB image.

    Raises: DianjingError for anything else, and for an image that is too large or too narrow.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DianjingError("image_array_unsupported", dtype=str(image.dtype), shape=str(image.shape))
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise DianjingError("image_type_unsupported", type_name=type(image).__name__)
    check_image_size(*image.size)
    return to_rgb(image)


def save_image(image: Image.Image, path: Path, metadata: GenerationMetadata, *, label: dict[str, str] | None) -> None:
    """Write a PNG atomically with its metadata, and with an implicit AIGC label unless `label` is None."""
    info = PngInfo()
    for key, text in serialize_metadata(metadata).items():
        info.add_itxt(key, text)
    if label is not None:
        info.add_itxt(XMP_KEY, make_xmp_packet(label))
    write_atomic(path, lambda file: image.save(file, format="PNG", pnginfo=info))


def read_image_metadata(path: str | Path) -> GenerationMetadata:
    """Read the generation metadata of a PNG.

    Raises: DianjingError for a file that is no PNG or holds no metadata of Dianjing.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may also stand behind the pixels
            texts = getattr(image, "text", {})
    except FileNotFoundError:
        raise DianjingError("file_missing", path=path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DianjingError("image_unreadable", path=path, reason=str(error)) from None
    try:
        return parse_metadata(texts)
    except (KeyError, ValueError, TypeError):
        raise DianjingError("metadata_missing", path=path) from None
