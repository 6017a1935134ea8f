"""Sprites of the sticker world: one RGBA picture per object, in any size and colour.

Legend: S sprite side in pixels, P side in the atlas; sprites are premultiplied uint8 (S, S, 4).

Two atlases are rendered once from Noto Color Emoji (SIL OFL 1.1, see NOTICE) and ship with the package: one of
SPRITE_PX for sprites up to that size, and one of LARGE_PX, the largest bitmaps that the font has, for larger ones:

    python -m dianjing.train.stickers.atlas --font NotoColorEmoji.ttf
"""

import argparse
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dianjing.train.stickers.objects import COLOURS, things

SPRITE_PX = 96
LARGE_PX = 136
ATLASES = {SPRITE_PX: "atlas.webp", LARGE_PX: "atlas_136.webp"}
LARGE_QUALITY = 90  # of WebP; lossless takes twice the bytes and looks the same
COLUMNS = 20
STRIKE_PX = 109  # the only size of the font's embedded bitmaps


def render_emoji(emoji: str, *, font: ImageFont.FreeTypeFont, side_px: int) -> Image.Image:
    """Draw one emoji, cropped to what is visible and centred in a square of side_px."""
    canvas = Image.new("RGBA", (2 * STRIKE_PX, 2 * STRIKE_PX))
    ImageDraw.Draw(canvas).text((30, 30), emoji, font=font, embedded_color=True)
    if (box := canvas.getbbox()) is None:
        raise ValueError(f"the font draws nothing for {emoji!r}; use a colour emoji font that has it")
    glyph = canvas.crop(box)
    side = max(glyph.size)
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square.resize((side_px, side_px), Image.Resampling.LANCZOS)


def build(font_path: Path, folder: Path) -> None:
    """Render every object of `objects.txt` into a picture for each side of ATLASES, COLUMNS sprites a row."""
    font = ImageFont.truetype(str(font_path), STRIKE_PX)
    rows = -(-len(things()) // COLUMNS)
    for side_px, name in ATLASES.items():
        sheet = Image.new("RGBA", (COLUMNS * side_px, rows * side_px))
        for thing in things():
            row, column = divmod(thing.id, COLUMNS)
            sheet.paste(render_emoji(thing.emoji, font=font, side_px=side_px), (column * side_px, row * side_px))
        if side_px == LARGE_PX:
            sheet.save(folder / name, quality=LARGE_QUALITY, method=6)
        else:
            sheet.save(folder / name, lossless=True, method=6)


@cache
def _sheet(side_px: int) -> np.ndarray:
    """All sprites of an atlas, straight alpha: uint8 (objects, P, P, 4)."""
    with (
        as_file(files(__package__).joinpath(ATLASES[side_px])) as path,
        Image.open(path, formats=("WEBP",)) as picture,
    ):
        pixels = np.asarray(picture.convert("RGBA"))
    rows = pixels.shape[0] // side_px
    tiles = pixels.reshape(rows, side_px, COLUMNS, side_px, 4).swapaxes(1, 2)
    return tiles.reshape(-1, side_px, side_px, 4)[: len(things())]


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
def _tinted(thing: int, colour: int, side_px: int) -> np.ndarray:
    """A sprite of an atlas in COLOURS[colour], straight alpha: uint8 (P, P, 4)."""
    return tint(_sheet(side_px)[thing], COLOURS[colour].rgb)


@cache
def sprite(thing: int, *, size_px: int, colour: int | None = None) -> np.ndarray:
    """The sprite of object `thing`, `size_px` wide and high, in COLOURS[colour] or in its own colours.

    Returns read-only uint8 (S, S, 4) with premultiplied alpha.
    """
    side_px = SPRITE_PX if size_px <= SPRITE_PX else LARGE_PX
    rgba = _sheet(side_px)[thing] if colour is None else _tinted(thing, colour, side_px)
    # "RGBa" is Pillow's premultiplied mode: resizing in it leaves no dark seam around the outline
    picture = Image.fromarray(rgba, "RGBA").convert("RGBa").resize((size_px, size_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture).copy()
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots at edges
    pixels.flags.writeable = False
    return pixels


def _main() -> None:
    parser = argparse.ArgumentParser(description=build.__doc__)
    parser.add_argument("--font", type=Path, required=True, help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    settings = parser.parse_args()
    build(settings.font, settings.out)


if __name__ == "__main__":
    _main()
