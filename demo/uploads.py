"""Uploaded images and conversations: checked for size and format before they are decoded."""

import base64
import binascii
import io
import json
import math
import re
import string
import struct
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from dianjing.demo.limits import ServerLimits
from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import to_rgb, to_rgb_or_rgba
from dianjing.pipelines.media.image import check_image_size

T = TypeVar("T")
UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")
DECODING_ERRORS = (OSError, SyntaxError, ValueError, IndexError, TypeError, struct.error)  # Pillow's for damaged files
ITEM_MARKS = (b",", b"[", b"{")  # one of them stands before every value of JSON
PNG_HEAD_CHARS = 32  # of base64: signature and size
DATA_URL_PATTERN = re.compile(r"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/", string.whitespace)


def decode_upload(content: bytes, limits: ServerLimits) -> Image.Image:
    """Decode the first frame of an uploaded PNG, JPEG or WebP to upright RGB.

    Raises: DianjingError for another format, or a file that is damaged or too large.
    """
    return decode_upload_as(content, limits, to_rgb)


def decode_upload_with_alpha(content: bytes, limits: ServerLimits) -> Image.Image:
    """Decode an upload as `decode_upload` does, but to RGBA if it has transparent parts."""
    return decode_upload_as(content, limits, to_rgb_or_rgba)


def decode_upload_as(content: bytes, limits: ServerLimits, convert: Callable[[Image.Image], T]) -> T:
    """Decode an upload, and return what `convert` makes of its first frame.

    Raises: DianjingError as `decode_upload`.
    """
    if len(content) > limits.max_upload_bytes:
        raise DianjingError("upload_too_large", size=len(content), max_size=limits.max_upload_bytes)
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > limits.max_upload_pixels:
                raise Image.DecompressionBombError
            check_image_size(*image.size)
            image.load()
            return convert(image)
    except DianjingError:
        raise
    except Image.DecompressionBombError:
        raise DianjingError("upload_too_many_pixels", max_pixels=limits.max_upload_pixels) from None
    except DECODING_ERRORS:
        raise DianjingError("upload_unreadable", formats=UPLOAD_FORMATS) from None


def decode_base64_image(text: object, limits: ServerLimits) -> Image.Image:
    """Decode an upload in base64 to upright RGB; see `decode_base64`.

    Raises: DianjingError as `decode_upload`.
    """
    return decode_upload(decode_base64(text), limits)


def decode_base64_image_with_alpha(text: object, limits: ServerLimits) -> Image.Image:
    """Decode an upload in base64 as `decode_base64_image` does, but to RGBA if it has transparent parts."""
    return decode_upload_with_alpha(decode_base64(text), limits)


def decode_base64(text: object) -> bytes:
    """Decode base64: of either alphabet, in lines or not, padded or not, alone or as a data: URL.

    Raises: DianjingError.
    """
    encoded = str(text)
    if head := DATA_URL_PATTERN.match(encoded):
        encoded = encoded[head.end() :]
    encoded = encoded.translate(URL_SAFE_TO_STANDARD).rstrip("=")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise DianjingError("image_not_base64") from None


def check_conversation_size(content: bytes, limits: ServerLimits) -> None:
    """Check how much memory a conversation file would take, before its images are decoded.

    Raises: DianjingError for too many values, or for images that have too many pixels together. What is no conversation
    passes: reading it says why.
    """
    if sum(content.count(mark) for mark in ITEM_MARKS) > limits.max_body_items:
        raise DianjingError("body_too_many_items", maximum=limits.max_body_items)
    try:
        images = [turn["png"] for turn in json.loads(content)["turns"]]
        pixels = sum(math.prod(_read_png_size(base64.b64decode(image[:PNG_HEAD_CHARS]))) for image in images)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        return
    if pixels > limits.max_upload_pixels:
        raise DianjingError("upload_too_many_pixels", max_pixels=limits.max_upload_pixels)


def _read_png_size(head: bytes) -> tuple[int, int]:
    """Width and height in the first chunk of a PNG."""
    width, height = struct.unpack_from(">II", head, 16)
    return width, height
