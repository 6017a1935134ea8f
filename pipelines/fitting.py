"""A picture of any size and kind to the size a model takes: scaled to fill it, its overhang cut off.

H height, W width; pictures are uint8 (H, W, 3).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000  # more is no photo but an attack on the memory
MAX_ASPECT = 20
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
BEHIND = (255, 255, 255)  # what transparent parts are laid over


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a picture of (width, height) was brought to the model's: scaled, then cut by `left` and `top`.

    All in pixels; a place (x, y) of the given picture is at (x scale - left, y scale - top) of the fitted one.
    """

    given: tuple[int, int]
    fitted: tuple[int, int]
    scale: float
    left: float
    top: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        return x * self.scale - self.left, y * self.scale - self.top

    def __str__(self) -> str:
        (w, h), (to_w, to_h) = self.given, self.fitted
        if self.given == self.fitted:
            return f"{w} x {h} px as given"
        across, down = w * self.scale - to_w, h * self.scale - to_h
        cut = [
            f"{size:.0f} px of its {name} cut off" for size, name in ((across, "width"), (down, "height")) if size >= 1
        ]
        return f"{w} x {h} px scaled by {self.scale:.3g} to {to_w} x {to_h} px" + (f", {cut[0]}" if cut else "")


def open_picture(path: str | Path | BinaryIO, *, name: str | None = None) -> Image.Image:
    """The first frame of a file as RGB, upright; whole or not at all. `name` is what messages call it.

    Raises: ValueError for what is no picture, damaged, or too large to be one.
    """
    name = str(path) if name is None else name
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            check_picture_size(*image.size, name=name)
            image.load()
            return as_rgb(image)
    except FileNotFoundError:
        raise ValueError(f"there is no file {name}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from None


def check_picture_size(width: int, height: int, *, name: str = "the picture") -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} has {width} x {height} px; at most {MAX_PIXELS:,} pixels are taken")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{name} is {width} x {height} px; one side may be at most {MAX_ASPECT} times the other")


def as_rgb(image: Image.Image) -> Image.Image:
    """Upright, eight bits, without transparency."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        levels = np.asarray(image, np.float64)
        top = 65535 if levels.max() > 255 else 255
        image = Image.fromarray((levels.clip(0, top) / top * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*BEHIND, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def fit(image: Image.Image, *, width: int, height: int) -> tuple[Image.Image, Fit]:
    """The middle of a picture at width x height px."""
    scale = max(width / image.width, height / image.height)
    left, top = ((side * scale - to) / 2 for side, to in ((image.width, width), (image.height, height)))
    how = Fit(given=image.size, fitted=(width, height), scale=scale, left=left, top=top)
    if image.size == (width, height):
        return image, how
    box = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box), how
