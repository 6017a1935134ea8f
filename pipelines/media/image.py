"""Images: opening, checking, and files with generation metadata.

H height, W width; images are uint8 (H, W, 3).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import write_atomic
from dianjing.pipelines.media.color import to_rgb, to_rgb_or_rgba
from dianjing.pipelines.media.image_file import FORMAT_BY_EXTENSION, encode_image, read_image_texts
from dianjing.pipelines.media.metadata import (
    GenerationMetadata,
    compute_pixels_sha256,
    parse_metadata,
    serialize_metadata,
)

MAX_IMAGE_PIXELS = 64_000_000  # protects the memory: no camera takes more
MAX_ASPECT_RATIO = 20
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
HEAD_BYTES = 1024  # of a file, enough to recognize its format
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
FOREIGN_FORMATS = {  # by their first bytes
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"<!DOCTYPE html": "HTML",
    b"<html": "HTML",
}
T = TypeVar("T")


def open_image(file: str | Path | BinaryIO, *, name: object = None) -> Image.Image:
    """Read the first frame of an image file as RGB, upright by its EXIF orientation, transparent parts over white.

    name: the name of the file in error messages; its path by default.
    Raises: DianjingError for a missing or damaged file, a format that is not read, and as `check_image_size` and
    `to_rgb`.
    """
    name = str(file) if name is None else name
    return open_image_file(file, partial(to_rgb, name=name), name=name)


def open_image_with_alpha(file: str | Path | BinaryIO, *, name: object = None) -> Image.Image:
    """Read an image file as `open_image` does, but as RGBA if it has transparent parts."""
    name = str(file) if name is None else name
    return open_image_file(file, partial(to_rgb_or_rgba, name=name), name=name)


def open_image_file(file: str | Path | BinaryIO, convert: Callable[[Image.Image], T], *, name: object) -> T:
    """Open an image file, check its size, and return what `convert` makes of its first frame.

    Raises: DianjingError as `open_image`, and for every exception of `convert`.
    """
    try:
        with report_damage("image_unreadable", name=name), Image.open(file, formats=_get_readable_formats()) as image:
            check_image_size(*image.size, name=name)
            image.load()
            return convert(image)
    except DianjingError:
        format_name = _identify_foreign_format(file)
        if format_name == "HEIC" and "HEIF" not in _get_readable_formats():
            raise DianjingError("image_is_heic", path=name) from None
        if format_name == "HEIC":
            raise DianjingError("image_unreadable", path=name, reason="HEIC") from None
        if format_name is None:
            raise
        raise DianjingError("image_format_foreign", path=name, format=format_name, allowed=IMAGE_FORMATS) from None


@contextmanager
def report_damage(message_id: str, *, name: object) -> Iterator[None]:
    """Raise a DianjingError with `path` and `reason` for any exception of a library that decodes a file.

    Libraries report damage by exceptions of many classes. A lack of memory is not the fault of the file.
    """
    try:
        yield
    except (DianjingError, MemoryError):
        raise
    except FileNotFoundError:
        raise DianjingError("file_missing", path=name) from None
    except UnidentifiedImageError:
        raise DianjingError("image_unidentified", path=name, allowed=IMAGE_FORMATS) from None
    except Exception as error:
        raise DianjingError(message_id, path=name, reason=str(error) or type(error).__name__) from None


def _identify_foreign_format(file: str | Path | BinaryIO) -> str | None:
    """Name the format of a file that is an image, or looks like one, but is not read; None for any other file."""
    try:
        if isinstance(file, str | Path):
            with open(file, "rb") as opened:
                head = opened.read(HEAD_BYTES)
        else:
            file.seek(0)
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head[:64]:
        return "HEIC"
    if b"<svg" in head:
        return "SVG"
    return next((name for start, name in FOREIGN_FORMATS.items() if head.startswith(start)), None)


@cache
def _get_readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: IMAGE_FORMATS, and HEIF if pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return IMAGE_FORMATS
    register_heif_opener()
    return (*IMAGE_FORMATS, "HEIF")


def check_image_size(width: int, height: int, *, name: object = "image") -> None:
    """Raise DianjingError for an image that has too many pixels or too extreme an aspect ratio."""
    if width * height > MAX_IMAGE_PIXELS:
        raise DianjingError("image_too_large", name=name, width=width, height=height, maximum=f"{MAX_IMAGE_PIXELS:,}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise DianjingError("image_too_narrow", name=name, width=width, height=height, maximum=MAX_ASPECT_RATIO)


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
    return to_rgb(_to_pil(image, channels=(3,)))


def check_image_with_alpha(image: object) -> Image.Image:
    """Check and convert an image as `check_image` does, but to RGBA if it has transparent parts; or (H, W, 4)."""
    return to_rgb_or_rgba(_to_pil(image, channels=(3, 4)))


def _to_pil(image: object, *, channels: tuple[int, ...]) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in channels:
            raise DianjingError("image_array_unsupported", dtype=str(image.dtype), shape=str(image.shape))
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise DianjingError("image_type_unsupported", type_name=type(image).__name__)
    check_image_size(*image.size)
    return image


def save_image(
    image: Image.Image,
    path: Path,
    metadata: GenerationMetadata,
    *,
    label: dict[str, str] | None,
    quality: int | None = None,
) -> None:
    """Write a PNG, JPEG or WebP atomically with its metadata, and with an implicit AIGC label unless `label` is None.

    The extension of `path` selects the format; PNG for another one. quality: from 0 to 100, of JPEG and WebP.
    """
    image_format = FORMAT_BY_EXTENSION.get(path.suffix.lower(), "png")
    texts = serialize_metadata(metadata)
    content = encode_image(image, image_format=image_format, quality=quality, texts=texts, label=label)
    write_atomic(path, lambda file: file.write(content))


def read_image_metadata(path: str | Path | BinaryIO) -> GenerationMetadata:
    """Read the generation metadata of a PNG, JPEG or WebP.

    Raises: DianjingError for a file that is none of these or holds no metadata of Dianjing.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()  # texts of a PNG may also stand behind the pixels
    except FileNotFoundError:
        raise DianjingError("file_missing", path=path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DianjingError("image_unreadable", path=path, reason=str(error)) from None
    try:
        return parse_metadata(read_image_texts(image))
    except (KeyError, ValueError, TypeError):
        raise DianjingError("metadata_missing", path=path) from None
