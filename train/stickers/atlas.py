"""Sprites of the sticker world: one RGBA image per sprite class, in any size and colour.

Legend: S sprite side in pixels, P its side in the atlas; sprites are premultiplied uint8 (S, S, 4).

Two atlases are rendered once from Noto Color Emoji (SIL OFL 1.1, see NOTICE) and ship with the package: one with
sprites of SPRITE_PX, for sizes up to that, and one of LARGE_SPRITE_PX, the full size of the font's bitmaps:

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
LARGE_SPRITE_PX = 136
ATLAS_FILES = {SPRITE_PX: "atlas.webp", LARGE_SPRITE_PX: "atlas_136.webp"}
LARGE_ATLAS_QUALITY = 90  # of WebP; lossless takes twice the bytes and looks the same
ATLAS_COLUMNS = 20
STRIKE_PX = 109  # the only size of the font's embedded bitmaps


def render_emoji(emoji: str, *, font: ImageFont.FreeTypeFont, size_px: int) -> Image.Image:
    """Render one emoji, cropped to its visible pixels and centred in a square of `size_px`.

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
    return square.resize((size_px, size_px), Image.Resampling.LANCZOS)


def build_atlases(font_path: Path, folder: Path) -> None:
    """Render every sprite class of `objects.txt` into an image of each size, with ATLAS_COLUMNS sprites per row."""
    font = ImageFont.truetype(str(font_path), STRIKE_PX)
    num_rows = -(-len(load_sprite_classes()) // ATLAS_COLUMNS)
    for size_px, name in ATLAS_FILES.items():
        atlas = Image.new("RGBA", (ATLAS_COLUMNS * size_px, num_rows * size_px))
        for sprite_class in load_sprite_classes():
            row, column = divmod(sprite_class.id, ATLAS_COLUMNS)
            atlas.paste(render_emoji(sprite_class.emoji, font=font, size_px=size_px), (column * size_px, row * size_px))
        if size_px == LARGE_SPRITE_PX:
            atlas.save(folder / name, quality=LARGE_ATLAS_QUALITY, method=6)
        else:
            atlas.save(folder / name, lossless=True, method=6)


@cache
def _load_atlas(size_px: int) -> np.ndarray:
    """Load all sprites of an atlas with straight alpha: uint8 (classes, P, P, 4); P is `size_px`."""
    path = files(__package__).joinpath(ATLAS_FILES[size_px])
    with as_file(path) as local_path, Image.open(local_path, formats=("WEBP",)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    num_rows = pixels.shape[0] // size_px
    tiles = pixels.reshape(num_rows, size_px, ATLAS_COLUMNS, size_px, 4).swapaxes(1, 2)
    return tiles.reshape(-1, size_px, size_px, 4)[: len(load_sprite_classes())]


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
def _tint_sprite(class_id: int, colour: int, atlas_px: int) -> np.ndarray:
    """Recolour a sprite of an atlas in COLOURS[colour]: uint8 (P, P, 4), straight alpha; P is `atlas_px`."""
    return tint(_load_atlas(atlas_px)[class_id], COLOURS[colour].rgb)


@cache
def get_sprite(class_id: int, *, size_px: int, colour: int | None = None) -> np.ndarray:
    """Return the sprite of a class in a size, in COLOURS[colour] or (None) in its own colours.

    Returns: read-only uint8 (S, S, 4) with premultiplied alpha; S is `size_px`.
    """
    atlas_px = SPRITE_PX if size_px <= SPRITE_PX else LARGE_SPRITE_PX
    rgba = _load_atlas(atlas_px)[class_id] if colour is None else _tint_sprite(class_id, colour, atlas_px)
    # "RGBa" is Pillow's premultiplied mode: resizing in it leaves no dark seam around the outline
    image = Image.fromarray(rgba, "RGBA").convert("RGBa").resize((size_px, size_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).copy()
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots at edges
    pixels.flags.writeable = False
    return pixels


def _main() -> None:
    parser = argparse.ArgumentParser(description=(build_atlases.__doc__ or "").split("\n")[0])
    parser.add_argument("--font", type=Path, required=True, help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the atlases")
    arguments = parser.parse_args()
    try:
        build_atlases(arguments.font, arguments.out)
    except (DianjingError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
