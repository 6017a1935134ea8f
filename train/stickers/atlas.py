"""Sprites of the sticker world: one RGBA picture per object, in any size and colour.

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

from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

SPRITE_PX = 96
ATLAS_COLUMNS = 20
STRIKE_PX = 109  # the only size of the font's embedded bitmaps


def render_emoji(emoji: str, *, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one emoji, cropped to what is visible and centred in a square of SPRITE_PX."""
    canvas = Image.new("RGBA", (2 * STRIKE_PX, 2 * STRIKE_PX))
    ImageDraw.Draw(canvas).text((30, 30), emoji, font=font, embedded_color=True)
    if (box := canvas.getbbox()) is None:
        raise ValueError(f"the font draws nothing for {emoji!r}; use a colour emoji font that has it")
    glyph = canvas.crop(box)
    side = max(glyph.size)
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square.resize((SPRITE_PX, SPRITE_PX), Image.Resampling.LANCZOS)


def build_atlas(font_path: Path, output_path: Path) -> None:
    """Render every object of `objects.txt` into one lossless picture, COLUMNS sprites a row."""
    font = ImageFont.truetype(str(font_path), STRIKE_PX)
    rows = -(-len(load_sprite_classes()) // ATLAS_COLUMNS)
    sheet = Image.new("RGBA", (ATLAS_COLUMNS * SPRITE_PX, rows * SPRITE_PX))
    for thing in load_sprite_classes():
        row, column = divmod(thing.id, ATLAS_COLUMNS)
        sheet.paste(render_emoji(thing.emoji, font=font), (column * SPRITE_PX, row * SPRITE_PX))
    sheet.save(output_path, lossless=True, method=6)


@cache
def _load_atlas() -> np.ndarray:
    """All sprites, straight alpha: uint8 (objects, SPRITE_PX, SPRITE_PX, 4)."""
    with as_file(files(__package__).joinpath("atlas.webp")) as path, Image.open(path, formats=("WEBP",)) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    rows = pixels.shape[0] // SPRITE_PX
    tiles = pixels.reshape(rows, SPRITE_PX, ATLAS_COLUMNS, SPRITE_PX, 4).swapaxes(1, 2)
    return tiles.reshape(-1, SPRITE_PX, SPRITE_PX, 4)[: len(load_sprite_classes())]


def tint(rgba: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """Give the coloured parts of a sprite another colour and keep its shading, whites and outlines.

    rgba: uint8 (S, S, 4), straight alpha. Returns the same shape.
    """
    colour = rgba[..., :3].astype(np.float32)
    high, low = colour.max(-1), colour.min(-1)
    # 0 where grey or white, 1 where clearly coloured; dark outlines keep their own colour
    vivid = np.clip((high - low) / 30 - 0.3, 0, 1)
    solid = (vivid > 0.9) & (rgba[..., 3] > 200)
    usual = np.median(high[solid]) if solid.any() else 255.0
    shade = (high / usual)[..., None]
    target = np.asarray(rgb, np.float32)
    turned = np.where(shade <= 1, target * shade, target + (255 - target) * np.clip((shade - 1) * 1.5, 0, 1))
    mixed = colour + (turned - colour) * vivid[..., None]
    return np.concatenate([mixed.clip(0, 255).astype(np.uint8), rgba[..., 3:]], -1)


@cache
def get_sprite(class_id: int, *, size_px: int, colour: int | None = None) -> np.ndarray:
    """The sprite of object `thing`, `size_px` wide and high, in COLOURS[colour] or in its own colours.

    Returns read-only uint8 (S, S, 4) with premultiplied alpha.
    """
    rgba = _load_atlas()[class_id]
    if colour is not None:
        rgba = tint(rgba, COLOURS[colour].rgb)
    # "RGBa" is Pillow's premultiplied mode: resizing in it leaves no dark seam around the outline
    picture = Image.fromarray(rgba, "RGBA").convert("RGBa").resize((size_px, size_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture).copy()
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots at edges
    pixels.flags.writeable = False
    return pixels


def _main() -> None:
    parser = argparse.ArgumentParser(description=build_atlas.__doc__)
    parser.add_argument("--font", type=Path, required=True, help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("atlas.webp"))
    settings = parser.parse_args()
    build_atlas(settings.font, settings.out)


if __name__ == "__main__":
    _main()
