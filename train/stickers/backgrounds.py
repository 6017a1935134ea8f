"""Backgrounds of the sticker world: plain colours and small painted scenes, each in NUM_VARIANTS variants.

Every background is drawn by code, so that a generated image can be compared with the exact ground truth.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from dianjing.train.stickers import background_painters as painters
from dianjing.train.stickers.background_painters import RGB, UnitCanvas

NUM_VARIANTS = 4
SUPERSAMPLING = 4  # painted this many times larger, then reduced, for smooth edges


@dataclass(frozen=True, kw_only=True)
class Background:
    """A background, its noun, and the phrases that locate something in front of it.

    `location_phrases_en` ("on the grass") and `location_phrases_zh` (草地上) start with the canonical phrase;
    `name_en` and `name_zh` are the noun (grass, 草地).
    """

    name_en: str
    name_zh: str
    location_phrases_en: tuple[str, ...]
    location_phrases_zh: tuple[str, ...]
    paint: Callable[[UnitCanvas], None]


def _make_plain_painter(rgb: RGB) -> Callable[[UnitCanvas], None]:
    return lambda canvas: canvas.draw_rectangle(0.0, 0.0, 1.0, 1.0, rgb)


def _make_scene_background(names: str, locations: str, *, paint: Callable[[UnitCanvas], None]) -> Background:
    name_en, name_zh = names.split("|")
    phrases_en, phrases_zh = (tuple(part.split(",")) for part in locations.split("|"))
    return Background(
        name_en=name_en, name_zh=name_zh, location_phrases_en=phrases_en, location_phrases_zh=phrases_zh, paint=paint
    )


def _make_colour_background(name_en: str, name_zh: str, rgb: RGB) -> Background:
    return Background(
        name_en=f"{name_en} background",
        name_zh=f"{name_zh}背景",
        location_phrases_en=(f"on a {name_en} background", f"in front of a {name_en} background"),
        location_phrases_zh=(f"{name_zh}背景上", f"{name_zh}背景前"),
        paint=_make_plain_painter(rgb),
    )


BACKGROUNDS = (
    _make_colour_background("white", "白色", (252, 252, 252)),
    _make_colour_background("pink", "粉色", (255, 205, 220)),
    _make_colour_background("light blue", "浅蓝色", (188, 222, 250)),
    _make_colour_background("yellow", "黄色", (255, 238, 165)),
    _make_colour_background("green", "绿色", (190, 230, 190)),
    _make_colour_background("purple", "紫色", (218, 200, 242)),
    _make_colour_background("orange", "橙色", (255, 210, 165)),
    _make_colour_background("grey", "灰色", (190, 192, 196)),
    _make_colour_background("black", "黑色", (30, 30, 34)),
    _make_scene_background(
        "grass|草地", "on the grass,in a meadow,on a lawn|草地上,草坪上,草地里", paint=painters.paint_grass
    ),
    _make_scene_background("sea|大海", "at sea,on the sea,on the ocean|大海上,海面上,海上", paint=painters.paint_sea),
    _make_scene_background(
        "night sky|夜空",
        "under the night sky,in the night sky,at night|夜空下,夜空中,夜空里",
        paint=painters.paint_night_sky,
    ),
    _make_scene_background(
        "snow|雪地", "in the snow,on the snow,on snowy ground|雪地里,雪地上,雪中", paint=painters.paint_snow
    ),
    _make_scene_background(
        "beach|沙滩", "on the beach,on a sandy beach,by the seaside|沙滩上,海滩上,海边", paint=painters.paint_beach
    ),
    _make_scene_background("desert|沙漠", "in the desert,in a sandy desert|沙漠里,沙漠中", paint=painters.paint_desert),
    _make_scene_background(
        "forest|森林", "in the forest,in the woods|森林里,树林里,森林中", paint=painters.paint_forest
    ),
    _make_scene_background(
        "mountains|高山",
        "in the mountains,in front of the mountains|山里,高山前,群山前",
        paint=painters.paint_mountains,
    ),
    _make_scene_background("city|城市", "in the city,in a city,downtown|城市里,城里,城市中", paint=painters.paint_city),
    _make_scene_background(
        "sea floor|海底", "under the sea,underwater,on the sea floor|海底,水下,海里", paint=painters.paint_underwater
    ),
    _make_scene_background(
        "outer space|太空", "in outer space,in space|太空中,太空里,宇宙中", paint=painters.paint_space
    ),
    _make_scene_background(
        "room|房间", "in a room,indoors,inside a room|房间里,屋子里,室内", paint=painters.paint_room
    ),
    _make_scene_background(
        "flower field|花田",
        "in a flower field,among the flowers|花田里,花丛中,花海里",
        paint=painters.paint_flower_field,
    ),
    _make_scene_background(
        "blue sky|蓝天",
        "in the blue sky,in the sky,among the clouds|蓝天上,天空中,蓝天白云间",
        paint=painters.paint_blue_sky,
    ),
    _make_scene_background("rain|雨天", "in the rain,on a rainy day|雨中,雨里,雨天里", paint=painters.paint_rain),
    _make_scene_background("road|马路", "on the road,on the street|马路上,公路上,路上", paint=painters.paint_road),
    _make_scene_background(
        "sunset|夕阳", "at sunset,under the sunset sky|夕阳下,晚霞中,日落时分", paint=painters.paint_sunset
    ),
)


@cache
def render_background(background: int, variant: int, *, size_px: int) -> np.ndarray:
    """Render BACKGROUNDS[background] in one of its variants (0 to NUM_VARIANTS - 1).

    Returns: read-only uint8 (size_px, size_px, 3).
    """
    canvas = UnitCanvas(size_px * SUPERSAMPLING, random.Random(1000 * background + variant))
    BACKGROUNDS[background].paint(canvas)
    pixels = np.asarray(canvas.image.resize((size_px, size_px), Image.Resampling.BOX)).copy()
    pixels.flags.writeable = False
    return pixels
