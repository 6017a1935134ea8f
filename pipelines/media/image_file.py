"""Image files as bytes: PNG, JPEG and WebP with generation metadata and the AIGC label inside.

PNG holds the texts of the metadata as iTXt chunks; JPEG and WebP hold them as JSON in the EXIF image description. The
label stands in XMP in all of them.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dianjing.pipelines.media.aigc_label import XMP_KEY, make_xmp_packet
from dianjing.pipelines.media.metadata import parse_metadata_json

ImageFormat = Literal["png", "jpeg", "webp"]
IMAGE_OUTPUT_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
FORMAT_BY_EXTENSION: Mapping[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
DEFAULT_QUALITY = 95
EXIF_IMAGE_DESCRIPTION = 0x010E


def encode_image(
    image: Image.Image,
    *,
    image_format: ImageFormat = "png",
    quality: int | None = None,
    texts: Mapping[str, str] | None = None,
    label: dict[str, str] | None = None,
) -> bytes:
    """Encode an image with the texts of its metadata and, unless `label` is None, an implicit AIGC label.

    quality: from 0 to 100, of JPEG and WebP; PNG is lossless.
    """
    packet = None if label is None else make_xmp_packet(label)
    options = _make_png_options(texts, packet) if image_format == "png" else _make_exif_options(texts, packet)
    if image_format == "jpeg":  # full colour resolution: flat drawings have sharp coloured edges
        options |= {"quality": max(1, DEFAULT_QUALITY if quality is None else quality), "subsampling": "4:4:4"}
    elif image_format == "webp":
        options |= {"quality": DEFAULT_QUALITY if quality is None else quality, "method": 4}
    buffer = io.BytesIO()
    image.save(buffer, format=image_format.upper(), **options)
    return buffer.getvalue()


def read_image_texts(image: Image.Image) -> dict[str, str]:
    """Read the texts that `encode_image` wrote into a loaded image, among them its XMP packet under `XMP_KEY`.

    Raises: ValueError or KeyError for a JPEG or WebP that it did not write.
    """
    if image.format == "PNG":
        return dict(getattr(image, "text", {}))
    description = image.getexif()[EXIF_IMAGE_DESCRIPTION].encode("latin-1").decode()  # Pillow decodes it as Latin-1
    return {**parse_metadata_json(description), XMP_KEY: image.info.get("xmp", b"").decode()}


def _make_png_options(texts: Mapping[str, str] | None, packet: str | None) -> dict[str, Any]:
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)
    if packet is not None:
        info.add_itxt(XMP_KEY, packet)
    return {"pnginfo": info}


def _make_exif_options(texts: Mapping[str, str] | None, packet: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {} if packet is None else {"xmp": packet.encode()}
    if texts is not None:
        exif = Image.Exif()
        # UTF-8, as JSON's escapes would let long prompts pass the 64 KB that EXIF has room for in a JPEG
        exif[EXIF_IMAGE_DESCRIPTION] = json.dumps(texts, ensure_ascii=False).encode()
        options["exif"] = exif
    return options
