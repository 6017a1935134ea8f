"""Conversion of images of any mode to upright 8-bit RGB.

H height, W width.
"""

import numpy as np
from PIL import Image, ImageCms

from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import XMP_KEY

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
UINT16_TO_UINT8 = 257  # 65535 / 255
# white of numbers without a fixed range: the smallest of these that no pixel exceeds
FLOAT_WHITES = (1, 255, 65535)
INT32_WHITES = (255, 65535)
EXIF_ORIENTATION = 0x0112
EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", XMP_KEY)  # of `Image.info`, where Pillow looks for the orientation
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image, *, name: object = "image", background: RGB = WHITE) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB: upright by EXIF, transparent parts over `background`.

    16-bit levels are divided by 257. Floats and 32-bit integers are scaled from 0 to 1, 255 or 65535, whichever is the
    first that no pixel exceeds. name: the name of the image in error messages.
    Raises: DianjingError for pixels that are not finite, negative or above 65535.
    """
    if image.mode.startswith(("I", "F")):
        rgb = _levels_to_rgb(image, name=name, background=background)
    elif image.mode == "LAB":
        rgb = _lab_to_rgb(image)
    elif image.has_transparency_data:
        rgb = _blend(image, background)
    else:
        rgb = image.convert("RGB")
    upright = make_upright(rgb, orientation=read_orientation(image))
    upright.info = {key: value for key, value in upright.info.items() if key not in EXIF_KEYS}  # not rotated again
    return upright


def to_rgb_or_rgba(image: Image.Image, *, name: object = "image") -> Image.Image:
    """Convert an image of any mode as `to_rgb` does, but keep the alpha of one that has transparent parts."""
    rgb = to_rgb(image, name=name)
    if image.mode.startswith(("I", "F")) or image.mode == "LAB" or not image.has_transparency_data:
        return rgb
    try:
        straight = _to_straight_rgba(image)
    except (ValueError, TypeError, OverflowError, SystemError):
        return rgb
    if straight.getchannel("A").getextrema() == (255, 255):
        return rgb
    upright = make_upright(straight, orientation=read_orientation(image))
    upright.info = dict(rgb.info)
    return upright


def flatten_alpha(pixels: np.ndarray) -> np.ndarray:
    """Lay pixels, uint8 (H, W, 4), over white: (H, W, 3); those without alpha are returned as they are."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def make_upright(image: Image.Image, *, orientation: int) -> Image.Image:
    """Turn and mirror an image as its EXIF orientation, a number from 1 to 8, says."""
    transposition = ORIENTATIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def read_orientation(image: Image.Image) -> int:
    """Read the orientation of an image, 1 for upright; metadata that cannot be read count as none."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow reports damaged EXIF by exceptions of many classes
        return 1


def _blend(image: Image.Image, background: RGB) -> Image.Image:
    """Composite an image with transparent parts over a color; a transparent color that cannot be one is ignored."""
    try:
        straight = _to_straight_rgba(image)
    except (ValueError, TypeError, OverflowError, SystemError):
        opaque = image.copy()
        opaque.info.pop("transparency", None)
        return opaque.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), straight).convert("RGB")


def _to_straight_rgba(image: Image.Image) -> Image.Image:
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def _levels_to_rgb(image: Image.Image, *, name: object, background: RGB) -> Image.Image:
    """Scale 16-bit, 32-bit or float levels to gray; levels that the file names as transparent become background."""
    levels = np.asarray(image)
    if image.mode.startswith("I;16"):
        scaled = levels / UINT16_TO_UINT8
    else:
        scaled = levels * (255 / _find_white(levels, name=name))
    rgb = np.repeat(scaled.round().astype(np.uint8)[..., None], 3, axis=2)
    if isinstance(transparent := image.info.get("transparency"), int):
        rgb[levels == transparent] = background
    return Image.fromarray(rgb)


def _find_white(levels: np.ndarray, *, name: object) -> int:
    """Find the level of white. Raises: DianjingError for levels that are not finite, negative or too high."""
    whites = FLOAT_WHITES if levels.dtype.kind == "f" else INT32_WHITES
    if not np.isfinite(levels).all():
        raise DianjingError("image_not_finite", name=name)
    low, high = levels.min(), levels.max()
    white = next((white for white in whites if high <= white), None)
    if white is None or low < 0:
        raise DianjingError("image_levels_out_of_range", name=name, low=f"{low:g}", high=f"{high:g}", whites=whites)
    return white
