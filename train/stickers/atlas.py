"""Sprites of the sticker world: one RGBA image per sprite class, in any size and colour.

Legend: S sprite side in pixels; sprites are premultiplied uint8 (S, S, 4).

The atlas is rendered once from Noto Color Emoji (SIL OFL 1.1, see NOTICE) and ships with the package:

    python -m dianjing.train.stickers.atlas --font NotoColorEmoji.ttf
"""

import argparse
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dianjing.errors import DianjingError
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

SPRITE_PX = 96
ATLAS_COLUMNS = 20
STRIKE_PX = 109  # the only size of the font's embedded bitmaps


def render_emoji(emoji: str, *, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Render one emoji, cropped to its visible pixels and centred in a square of SPRITE_PX.

    Raises: DianjingError if the font has no glyph for it.
    """
    canvas = Image.new("RGBA", (2 * STRIKE_PX, 2 * STRIKE_PX))
    ImageDraw.Draw(canvas).text((30, 30), emoji, font=font, embedded_color=True)
    if (box := canvas.getbbox()) is None:
        raise DianjingError("font_lacks_emoji", emoji=emoji)
    glyph = canvas.crop(box)
    side = max(glyph.size)
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square.resize((SPRITE_PX, SPRITE_PX), Image.Resampling.LANCZOS)


def build_atlas(font_path: Path, output_path: Path) -> None:
    """Render every sprite class of `objects.txt` into one lossless image with ATLAS_COLUMNS sprites per row."""
    font = ImageFont.truetype(str(font_path), STRIKE_PX)
    rows = -(-len(load_sprite_classes()) // ATLAS_COLUMNS)
    atlas = Image.new("RGBA", (ATLAS_COLUMNS * SPRITE_PX, rows * SPRITE_PX))
    for sprite_class in load_sprite_classes():
        row, column = divmod(sprite_class.id, ATLAS_COLUMNS)
        atlas.paste(render_emoji(sprite_class.emoji, font=font), (column * SPRITE_PX, row * SPRITE_PX))
    atlas.save(output_path, lossless=True, method=6)


@cache
def _load_atlas() -> np.ndarray:
    """Load all sprites with straight alpha: uint8 (classes, SPRITE_PX, SPRITE_PX, 4)."""
    with as_file(files(__package__).joinpath("atlas.webp")) as path, Image.open(path, formats=("WEBP",)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    rows = pixels.shape[0] // SPRITE_PX
    tiles = pixels.reshape(rows, SPRITE_PX, ATLAS_COLUMNS, SPRITE_PX, 4).swapaxes(1, 2)
    return tiles.reshape(-1, SPRITE_PX, SPRITE_PX, 4)[: len(load_sprite_classes())]


def tint(rgba: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """Recolour the saturated parts of a sprite; its shading, its whites and its outlines stay.

    rgba: uint8 (S, S, 4), straight alpha. rgb: 0 to 255. Returns the same shape.
    """
    colour = rgba[..., :3].astype(np.float32)
    high, low = colour.max(-1), colour.min(-1)
    # 0 where grey or white, 1 where clearly coloured; dark outlines keep their own colour
    saturation = np.clip((high - low) / 30 - 0.3, 0, 1)
    is_solid = (saturation > 0.9) & (rgba[..., 3] > 200)
    median_brightness = np.median(high[is_solid]) if is_solid.any() else 255.0
    shade = (high / median_brightness)[..., None]
    target = np.asarray(rgb, np.float32)
    tinted = np.where(shade <= 1, target * shade, target + (255 - target) * np.clip((shade - 1) * 1.5, 0, 1))
    mixed = colour + (tinted - colour) * saturation[..., None]
    return np.concatenate([mixed.clip(0, 255).astype(np.uint8), rgba[..., 3:]], -1)


@cache
def get_sprite(class_id: int, *, size_px: int, colour: int | None = None) -> np.ndarray:
    """Return the sprite of a class in a size, in COLOURS[colour] or (None) in its own colours.

    Returns: read-only uint8 (S, S, 4) with premultiplied alpha; S is `size_px`.
    """
    rgba = _load_atlas()[class_id]
    if colour is not None:
        rgba = tint(rgba, COLOURS[colour].rgb)
    # "RGBa" is Pillow's premultiplied mode: resizing in it leaves no dark seam around the outline
    image = Image.fromarray(rgba, "RGBA").convert("RGBa").resize((size_px, size_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).copy()
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots at edges
    pixels.flags.writeable = False
    return pixels


def _main() -> None:
    parser = argparse.ArgumentParser(description=(build_atlas.__doc__ or "").split("\n")[0])
    parser.add_argument("--font", type=Path, required=True, help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("atlas.webp"))
    arguments = parser.parse_args()
    try:
        build_atlas(arguments.font, arguments.out)
    except (DianjingError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
