"""Random image files for property tests: all modes and formats, odd sizes and names, good and bad metadata, damage.

A picture is a function of its number alone. Some cannot be read: a test asks that each is read, or refused by name.
"""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

LARGE_INTERVAL = 100  # every so many pictures, one is large
MAX_SIDE_PX, MAX_LARGE_SIDE_PX = 512, 5000
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
FORMATS |= {".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF"}
STEMS = ("photo", "IMG 0001", "a.v2", "图片", "猫 😀", "naïve", "100%", "{name}", "#1", "-o")
NUM_DAMAGES = 6


def make_random_picture(index: int) -> tuple[str, bytes]:
    """The name and the content of an image file; the name is unique among all indices."""
    rng = random.Random(f"picture {index}")
    suffix, format_name = rng.choice(list(FORMATS.items()))
    image = _draw(rng, is_large=index % LARGE_INTERVAL == 0)
    content = _encode(image, format_name, _make_metadata(format_name, rng), rng)
    if format_name == "PNG" and rng.random() < 0.4:
        content = _add_chunk(content, rng)
    if rng.random() < 0.2:
        content = _damage(content, rng)
    if rng.random() < 0.1:
        suffix = rng.choice(list(FORMATS))  # not that of its format
    name = f"{rng.choice(STEMS)}-{index}{rng.choice((suffix, suffix, suffix.upper(), suffix.title()))}"
    return name, content


def write_random_pictures(folder: Path, count: int) -> list[Path]:
    """Write the first `count` pictures into a folder."""
    paths = []
    for index in range(count):
        name, content = make_random_picture(index)
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths


def _draw(rng: random.Random, *, is_large: bool) -> Image.Image:
    """A gradient with a block of noise in a random mode; 16-bit and float pictures have random value ranges."""
    mode, longest = rng.choice(MODES), MAX_LARGE_SIDE_PX if is_large else MAX_SIDE_PX
    width, height = rng.randint(1, longest), rng.randint(1, longest)
    if rng.random() < 0.7:  # mostly sides of like length, as photos have
        height = max(1, min(longest, round(width * rng.uniform(0.4, 2.5))))
    row, column = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    levels = (row + column[:, None]) / 2
    noise = np.random.default_rng(rng.getrandbits(32)).random((min(16, height), min(16, width)), np.float32)
    levels[: noise.shape[0], : noise.shape[1]] = noise
    if mode == "F":
        levels = (levels - rng.choice((0, 0.5))) * rng.choice((1, 255, 65535, 1e30))
        if rng.random() < 0.3:
            levels[0, 0] = rng.choice((float("nan"), float("inf"), -float("inf")))
        return Image.fromarray(levels)
    if mode.startswith("I"):
        values = (levels * rng.choice((0, 1, 255, 1020, 65535))).astype(np.uint16)
        if mode == "I":
            return Image.fromarray(values.astype(np.int32) * rng.choice((1, -1, 65536)))
        return Image.frombytes(mode, (width, height), values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    image = Image.fromarray((levels * 255).astype(np.uint8))
    if mode in ("LAB", "HSV", "YCbCr"):
        return Image.merge(mode, [image] * 3)
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(((1 - levels) * 255).astype(np.uint8)))
        return image
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def _encode(image: Image.Image, format_name: str, metadata: dict, rng: random.Random) -> bytes:
    """The file; modes that a format does not store become RGB, and metadata that it refuses are left out."""
    if format_name in ("GIF", "WEBP", "AVIF") and max(image.size) <= 64 and rng.random() < 0.5:
        metadata = metadata | {"save_all": True, "append_images": [image] * 2, "duration": rng.choice((0, 40, 1000))}
        if format_name == "AVIF":
            metadata.pop("exif", None)  # Pillow 12.3 crashes when it writes both
    for mode, options in ((image.mode, metadata), (image.mode, {}), ("RGB", metadata), ("RGB", {})):
        file = io.BytesIO()
        try:
            converted = image if mode == image.mode else _to_rgb(image)
            converted.save(file, format_name, **options)
        except Exception:  # plugins refuse modes and metadata in many ways
            continue
        return file.getvalue()
    raise AssertionError(f"{format_name} stores no {image.mode} of {image.size}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB" or image.mode.startswith(("I", "F")):
        return Image.new("RGB", image.size, (200, 60, 30))
    return image.convert("RGB")


def _make_metadata(format_name: str, rng: random.Random) -> dict:
    metadata: dict = {}
    if rng.random() < 0.5:
        exif = Image.Exif()
        exif[0x112] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 60000))
        exif[0x10F] = rng.choice(("camera", "相机", "\0", "x" * 5000))
        valid = exif.tobytes()
        metadata["exif"] = rng.choice((valid, valid, valid[: len(valid) // 2], b"", b"Exif\0\0garbage", b"hello world"))
    if rng.random() < 0.3:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        metadata["icc_profile"] = rng.choice((profile, profile[:40], b"no profile"))
    if rng.random() < 0.3:
        metadata["dpi"] = rng.choice(((72, 72), (0, 0), (1, 60000)))
    if rng.random() < 0.2:
        metadata["transparency"] = rng.choice((0, 255, (1, 2, 3), b"\0\x80"))
    if format_name == "PNG" and rng.random() < 0.3:
        info = PngInfo()
        info.add_text("Comment", "0" * rng.choice((3, 3_000_000)), zip=True)  # Pillow refuses texts above 1 MiB
        info.add_itxt("prompt", "草地上的一只小猫")
        metadata["pnginfo"] = info
    return metadata


def _add_chunk(png: bytes, rng: random.Random) -> bytes:
    """Insert a chunk with random content before the pixels."""
    kind = rng.choice((b"eXIf", b"iCCP", b"gAMA", b"pHYs", b"tRNS", b"tEXt", b"iTXt", b"zTXt", b"cHRM", b"acTL"))
    data = rng.choice((b"", b"hello world", rng.randbytes(rng.randint(1, 64)), b"key\0\0" + zlib.compress(b"0" * 5000)))
    at = png.index(b"IDAT") - 4
    return png[:at] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) + png[at:]


def _damage(content: bytes, rng: random.Random) -> bytes:
    """Cut a file off, or change bytes of it."""
    damage = rng.randrange(NUM_DAMAGES)
    if damage == 0:
        return content[: rng.randint(0, len(content) - 1)]
    if damage == 1:
        return b""
    if damage == 2:
        return content + rng.randbytes(100)  # read by most programs
    if damage == 3:
        return b"\0" * len(content)
    changed = bytearray(content)
    end = len(content) if damage == 4 else min(len(content), 100)  # anywhere, or in the header
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)
