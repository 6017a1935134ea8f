"""What stands behind the objects: plain colours and small painted scenes, each in a few variants.

Every background is drawn by code, so that a generated picture can be compared with the exact truth.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

NUM_VARIANTS = 4
SUPERSAMPLING = 4  # drawn this much larger, then reduced, for smooth edges

RGB = tuple[int, int, int]


class UnitCanvas:
    """Paints in unit coordinates: (0, 0) is the top left corner, (1, 1) the bottom right one."""

    def __init__(self, size_px: int, rng: random.Random):
        self.size_px, self.rng = size_px, rng
        self.image = Image.new("RGB", (size_px, size_px))
        self.draw = ImageDraw.Draw(self.image)

    def fill_gradient(self, top: RGB, bottom: RGB, *, y0: float = 0.0, y1: float = 1.0) -> None:
        rows = range(round(y0 * self.size_px), round(y1 * self.size_px))
        for row in rows:
            share = (row - rows.start) / max(1, len(rows) - 1)
            colour = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
            self.draw.line([(0, row), (self.size_px, row)], fill=colour)

    def draw_dots(self, count: int, colours: list[RGB], *, y0: float, y1: float, radius: float) -> None:
        for _ in range(count):
            x, y = self.rng.random(), self.rng.uniform(y0, y1)
            self.draw_disc(x, y, radius * self.rng.uniform(0.6, 1.4), self.rng.choice(colours))

    def draw_disc(self, x: float, y: float, radius: float, colour: RGB) -> None:
        box = [(v) * self.size_px for v in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, fill=colour)

    def draw_polygon(self, points: list[tuple[float, float]], colour: RGB) -> None:
        self.draw.polygon([(x * self.size_px, y * self.size_px) for x, y in points], fill=colour)

    def draw_rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        self.draw.rectangle([v * self.size_px for v in (x0, y0, x1, y1)], fill=colour)

    def draw_line(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, width: float = 0.008) -> None:
        ends = [x0 * self.size_px, y0 * self.size_px, x1 * self.size_px, y1 * self.size_px]
        self.draw.line(ends, fill=colour, width=max(1, round(width * self.size_px)))

    def draw_hills(self, base: float, height: float, count: int, colour: RGB) -> None:
        for index in range(count + 1):
            x = (index + self.rng.uniform(-0.25, 0.25)) / count
            top, half = base - height * self.rng.uniform(0.6, 1.0), 0.75 / count
            self.draw_polygon([(x - half, base), (x, top), (x + half, base)], colour)

    def draw_clouds(self, count: int, *, y0: float, y1: float, colour: RGB = (255, 255, 255)) -> None:
        for index in range(count):
            x, y = (index + self.rng.uniform(0.2, 0.8)) / count, self.rng.uniform(y0, y1)
            for dx, radius in ((-0.06, 0.035), (0.0, 0.05), (0.06, 0.035)):
                self.draw_disc(x + dx, y, radius, colour)


def _paint_grass(b: UnitCanvas) -> None:
    b.fill_gradient((150, 210, 250), (215, 240, 255), y1=0.5)
    b.fill_gradient((135, 205, 85), (85, 165, 55), y0=0.5)
    for _ in range(60):
        x, y = b.rng.random(), b.rng.uniform(0.56, 1.0)
        b.draw_line(x, y, x + b.rng.uniform(-0.01, 0.01), y - 0.045, (65, 140, 45))


def _paint_sea(b: UnitCanvas) -> None:
    b.fill_gradient((165, 215, 250), (225, 243, 255), y1=0.42)
    b.fill_gradient((45, 140, 205), (15, 85, 160), y0=0.42)
    for _ in range(26):
        x, y = b.rng.random(), b.rng.uniform(0.47, 0.98)
        b.draw_line(x, y, x + b.rng.uniform(0.05, 0.12), y, (110, 185, 230))


def _paint_night_sky(b: UnitCanvas) -> None:
    b.fill_gradient((12, 16, 52), (38, 48, 105))
    b.draw_dots(45, [(255, 255, 255), (255, 245, 190), (190, 205, 255)], y0=0.0, y1=1.0, radius=0.006)


def _paint_snow(b: UnitCanvas) -> None:
    b.fill_gradient((165, 190, 220), (205, 220, 238), y1=0.55)
    b.fill_gradient((250, 252, 255), (222, 232, 245), y0=0.55)
    b.draw_dots(40, [(255, 255, 255)], y0=0.0, y1=0.55, radius=0.008)


def _paint_beach(b: UnitCanvas) -> None:
    b.fill_gradient((125, 200, 245), (195, 232, 252), y1=0.35)
    b.fill_gradient((30, 150, 200), (95, 205, 215), y0=0.35, y1=0.58)
    b.fill_gradient((250, 228, 170), (232, 198, 130), y0=0.58)
    b.draw_dots(30, [(215, 180, 115), (255, 240, 200)], y0=0.62, y1=1.0, radius=0.006)


def _paint_desert(b: UnitCanvas) -> None:
    b.fill_gradient((255, 215, 150), (255, 238, 200), y1=0.5)
    b.fill_gradient((235, 175, 95), (200, 130, 60), y0=0.5)
    for y, colour in ((0.6, (225, 160, 82)), (0.78, (208, 140, 68))):
        x = b.rng.uniform(0.2, 0.8)
        b.draw_polygon([(-0.1, y + 0.1), (x, y - 0.08), (1.1, y + 0.12), (1.1, 1.1), (-0.1, 1.1)], colour)


def _paint_forest(b: UnitCanvas) -> None:
    b.fill_gradient((175, 215, 180), (120, 175, 130), y1=0.62)
    b.draw_hills(0.64, 0.5, 7, (62, 122, 82))
    b.draw_hills(0.68, 0.36, 9, (38, 92, 60))
    b.fill_gradient((72, 108, 55), (48, 78, 40), y0=0.66)


def _paint_mountains(b: UnitCanvas) -> None:
    b.fill_gradient((175, 210, 245), (232, 240, 250), y1=0.75)
    b.draw_hills(0.75, 0.5, 3, (135, 150, 185))
    b.draw_hills(0.77, 0.32, 4, (98, 115, 150))
    b.fill_gradient((125, 160, 110), (95, 135, 85), y0=0.74)


def _paint_city(b: UnitCanvas) -> None:
    b.fill_gradient((200, 215, 232), (236, 236, 240), y1=0.75)
    for index in range(8):
        top, grey = b.rng.uniform(0.2, 0.5), b.rng.randint(105, 160)
        b.draw_rectangle(index / 8, top, (index + 0.86) / 8, 0.76, (grey, grey + 8, grey + 22))
        for row in range(int((0.72 - top) / 0.08)):
            y = top + 0.04 + row * 0.08
            b.draw_rectangle((index + 0.2) / 8, y, (index + 0.65) / 8, y + 0.03, (250, 232, 160))
    b.draw_rectangle(0.0, 0.75, 1.0, 1.0, (92, 95, 102))
    for index in range(4):
        b.draw_rectangle(index / 4 + 0.05, 0.865, index / 4 + 0.18, 0.885, (240, 240, 235))


def _paint_underwater(b: UnitCanvas) -> None:
    b.fill_gradient((65, 185, 215), (10, 70, 130), y1=0.85)
    b.fill_gradient((205, 190, 140), (180, 160, 110), y0=0.85)
    b.draw_dots(28, [(160, 225, 240), (200, 240, 250)], y0=0.0, y1=0.82, radius=0.011)


def _paint_space(b: UnitCanvas) -> None:
    b.fill_gradient((28, 8, 48), (60, 20, 85))
    b.draw_dots(6, [(85, 35, 115), (70, 30, 100)], y0=0.1, y1=0.9, radius=0.12)
    b.draw_dots(55, [(255, 255, 255), (255, 200, 240), (200, 255, 255)], y0=0.0, y1=1.0, radius=0.005)


def _paint_room(b: UnitCanvas) -> None:
    b.draw_rectangle(0.0, 0.0, 1.0, 0.68, (243, 222, 190))
    for index in range(8):
        b.draw_line(index / 8 + 0.06, 0.0, index / 8 + 0.06, 0.68, (234, 208, 170), width=0.012)
    b.draw_rectangle(0.0, 0.66, 1.0, 0.7, (250, 245, 235))
    b.fill_gradient((190, 135, 85), (165, 110, 65), y0=0.7)


def _paint_flower_field(b: UnitCanvas) -> None:
    b.fill_gradient((160, 220, 255), (225, 245, 255), y1=0.4)
    b.fill_gradient((130, 200, 100), (90, 170, 70), y0=0.4)
    b.draw_dots(55, [(255, 105, 150), (255, 220, 80), (255, 255, 255), (190, 110, 230)], y0=0.45, y1=1.0, radius=0.014)


def _paint_blue_sky(b: UnitCanvas) -> None:
    b.fill_gradient((70, 160, 240), (175, 220, 255))
    b.draw_clouds(3, y0=0.12, y1=0.35)
    b.draw_clouds(2, y0=0.6, y1=0.88)


def _paint_rain(b: UnitCanvas) -> None:
    b.fill_gradient((125, 135, 150), (170, 178, 190))
    for _ in range(55):
        x, y = b.rng.random(), b.rng.uniform(-0.05, 1.0)
        b.draw_line(x, y, x - 0.02, y + 0.07, (205, 218, 235), width=0.006)


def _paint_road(b: UnitCanvas) -> None:
    b.fill_gradient((170, 215, 250), (225, 240, 252), y1=0.45)
    b.fill_gradient((140, 195, 100), (115, 175, 80), y0=0.45, y1=0.58)
    b.draw_rectangle(0.0, 0.58, 1.0, 1.0, (105, 108, 115))
    shift = b.rng.uniform(0.0, 0.1)
    for index in range(4):
        b.draw_rectangle(index / 4 + shift, 0.77, index / 4 + shift + 0.14, 0.8, (250, 250, 240))


def _paint_sunset(b: UnitCanvas) -> None:
    b.fill_gradient((85, 60, 130), (250, 140, 95), y1=0.6)
    b.fill_gradient((250, 140, 95), (255, 215, 130), y0=0.6)
    b.draw_clouds(2, y0=0.15, y1=0.4, colour=(215, 115, 125))


def _make_plain_painter(rgb: RGB) -> Callable[[UnitCanvas], None]:
    return lambda brush: brush.draw_rectangle(0.0, 0.0, 1.0, 1.0, rgb)


@dataclass(frozen=True, kw_only=True)
class Background:
    """A background and how people say that something is in front of it.

    `where_en` ("on the grass") and `where_zh` (草地上) start with the usual phrase; `name_en` / `name_zh` are its noun.
    """

    name_en: str
    name_zh: str
    location_phrases_en: tuple[str, ...]
    location_phrases_zh: tuple[str, ...]
    paint: Callable[[UnitCanvas], None]


def _make_scene_background(name: str, locations: str, *, paint: Callable[[UnitCanvas], None]) -> Background:
    name_en, name_zh = name.split("|")
    where_en, where_zh = (tuple(part.split(",")) for part in locations.split("|"))
    return Background(
        name_en=name_en, name_zh=name_zh, location_phrases_en=where_en, location_phrases_zh=where_zh, paint=paint
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
    _make_scene_background("grass|草地", "on the grass,in a meadow,on a lawn|草地上,草坪上,草地里", paint=_paint_grass),
    _make_scene_background("sea|大海", "at sea,on the sea,on the ocean|大海上,海面上,海上", paint=_paint_sea),
    _make_scene_background(
        "night sky|夜空", "under the night sky,in the night sky,at night|夜空下,夜空中,夜空里", paint=_paint_night_sky
    ),
    _make_scene_background(
        "snow|雪地", "in the snow,on the snow,on snowy ground|雪地里,雪地上,雪中", paint=_paint_snow
    ),
    _make_scene_background(
        "beach|沙滩", "on the beach,on a sandy beach,by the seaside|沙滩上,海滩上,海边", paint=_paint_beach
    ),
    _make_scene_background("desert|沙漠", "in the desert,in a sandy desert|沙漠里,沙漠中", paint=_paint_desert),
    _make_scene_background("forest|森林", "in the forest,in the woods|森林里,树林里,森林中", paint=_paint_forest),
    _make_scene_background(
        "mountains|高山", "in the mountains,in front of the mountains|山里,高山前,群山前", paint=_paint_mountains
    ),
    _make_scene_background("city|城市", "in the city,in a city,downtown|城市里,城里,城市中", paint=_paint_city),
    _make_scene_background(
        "sea floor|海底", "under the sea,underwater,on the sea floor|海底,水下,海里", paint=_paint_underwater
    ),
    _make_scene_background("outer space|太空", "in outer space,in space|太空中,太空里,宇宙中", paint=_paint_space),
    _make_scene_background("room|房间", "in a room,indoors,inside a room|房间里,屋子里,室内", paint=_paint_room),
    _make_scene_background(
        "flower field|花田", "in a flower field,among the flowers|花田里,花丛中,花海里", paint=_paint_flower_field
    ),
    _make_scene_background(
        "blue sky|蓝天", "in the blue sky,in the sky,among the clouds|蓝天上,天空中,蓝天白云间", paint=_paint_blue_sky
    ),
    _make_scene_background("rain|雨天", "in the rain,on a rainy day|雨中,雨里,雨天里", paint=_paint_rain),
    _make_scene_background("road|马路", "on the road,on the street|马路上,公路上,路上", paint=_paint_road),
    _make_scene_background("sunset|夕阳", "at sunset,under the sunset sky|夕阳下,晚霞中,日落时分", paint=_paint_sunset),
)


@cache
def render_background(background: int, variant: int, *, size_px: int) -> np.ndarray:
    """The picture of BACKGROUNDS[background]: read-only uint8 (size_px, size_px, 3). `variant` is 0 to VARIANTS - 1."""
    brush = UnitCanvas(size_px * SUPERSAMPLING, random.Random(1000 * background + variant))
    BACKGROUNDS[background].paint(brush)
    pixels = np.asarray(brush.image.resize((size_px, size_px), Image.Resampling.BOX)).copy()
    pixels.flags.writeable = False
    return pixels
