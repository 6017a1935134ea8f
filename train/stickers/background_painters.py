"""Painters of the scene backgrounds, and the canvas that they paint on.

Each painter is a function of the canvas and of its random generator alone, so that backgrounds are exact ground truth.
"""

import random

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]  # 0 to 255


class UnitCanvas:
    """A square RGB canvas in unit coordinates: (0, 0) is the top left corner, (1, 1) the bottom right one.

    size_px: side in pixels. rng: the randomness of the painters. `image`: the PIL image that is painted.
    """

    def __init__(self, size_px: int, rng: random.Random):
        self.size_px, self.rng = size_px, rng
        self.image = Image.new("RGB", (size_px, size_px))
        self.draw = ImageDraw.Draw(self.image)

    def fill_gradient(self, top: RGB, bottom: RGB, *, y0: float = 0.0, y1: float = 1.0) -> None:
        """Fill the rows from y0 to y1 with a vertical gradient."""
        rows = range(round(y0 * self.size_px), round(y1 * self.size_px))
        for row in rows:
            share = (row - rows.start) / max(1, len(rows) - 1)
            colour = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
            self.draw.line([(0, row), (self.size_px, row)], fill=colour)

    def draw_dots(self, count: int, colours: list[RGB], *, y0: float, y1: float, radius: float) -> None:
        """Draw discs of random colours, with about this radius, at random positions between y0 and y1."""
        for _ in range(count):
            x, y = self.rng.random(), self.rng.uniform(y0, y1)
            self.draw_disc(x, y, radius * self.rng.uniform(0.6, 1.4), self.rng.choice(colours))

    def draw_disc(self, x: float, y: float, radius: float, colour: RGB) -> None:
        """Draw a disc around (x, y)."""
        box = [v * self.size_px for v in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, fill=colour)

    def draw_polygon(self, points: list[tuple[float, float]], colour: RGB) -> None:
        """Draw a filled polygon."""
        self.draw.polygon([(x * self.size_px, y * self.size_px) for x, y in points], fill=colour)

    def draw_rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        """Draw a filled rectangle."""
        self.draw.rectangle([v * self.size_px for v in (x0, y0, x1, y1)], fill=colour)

    def draw_line(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, width: float = 0.008) -> None:
        """Draw a straight line at least one pixel wide."""
        ends = [x0 * self.size_px, y0 * self.size_px, x1 * self.size_px, y1 * self.size_px]
        self.draw.line(ends, fill=colour, width=max(1, round(width * self.size_px)))

    def draw_hills(self, base: float, height: float, count: int, colour: RGB) -> None:
        """Draw a row of overlapping triangles that stand on y = base and are up to `height` high."""
        for index in range(count + 1):
            x = (index + self.rng.uniform(-0.25, 0.25)) / count
            top, half_width = base - height * self.rng.uniform(0.6, 1.0), 0.75 / count
            self.draw_polygon([(x - half_width, base), (x, top), (x + half_width, base)], colour)

    def draw_clouds(self, count: int, *, y0: float, y1: float, colour: RGB = (255, 255, 255)) -> None:
        """Draw clouds of three discs each, spread evenly from left to right between y0 and y1."""
        for index in range(count):
            x, y = (index + self.rng.uniform(0.2, 0.8)) / count, self.rng.uniform(y0, y1)
            for dx, radius in ((-0.06, 0.035), (0.0, 0.05), (0.06, 0.035)):
                self.draw_disc(x + dx, y, radius, colour)


def paint_grass(canvas: UnitCanvas) -> None:
    """Paint a meadow with single blades of grass under a blue sky."""
    canvas.fill_gradient((150, 210, 250), (215, 240, 255), y1=0.5)
    canvas.fill_gradient((135, 205, 85), (85, 165, 55), y0=0.5)
    for _ in range(60):
        x, y = canvas.rng.random(), canvas.rng.uniform(0.56, 1.0)
        canvas.draw_line(x, y, x + canvas.rng.uniform(-0.01, 0.01), y - 0.045, (65, 140, 45))


def paint_sea(canvas: UnitCanvas) -> None:
    """Paint a sea with light waves under a blue sky."""
    canvas.fill_gradient((165, 215, 250), (225, 243, 255), y1=0.42)
    canvas.fill_gradient((45, 140, 205), (15, 85, 160), y0=0.42)
    for _ in range(26):
        x, y = canvas.rng.random(), canvas.rng.uniform(0.47, 0.98)
        canvas.draw_line(x, y, x + canvas.rng.uniform(0.05, 0.12), y, (110, 185, 230))


def paint_night_sky(canvas: UnitCanvas) -> None:
    """Paint a dark blue sky full of stars."""
    canvas.fill_gradient((12, 16, 52), (38, 48, 105))
    canvas.draw_dots(45, [(255, 255, 255), (255, 245, 190), (190, 205, 255)], y0=0.0, y1=1.0, radius=0.006)


def paint_snow(canvas: UnitCanvas) -> None:
    """Paint falling snow over snowy ground."""
    canvas.fill_gradient((165, 190, 220), (205, 220, 238), y1=0.55)
    canvas.fill_gradient((250, 252, 255), (222, 232, 245), y0=0.55)
    canvas.draw_dots(40, [(255, 255, 255)], y0=0.0, y1=0.55, radius=0.008)


def paint_beach(canvas: UnitCanvas) -> None:
    """Paint sand, shallow water and a blue sky."""
    canvas.fill_gradient((125, 200, 245), (195, 232, 252), y1=0.35)
    canvas.fill_gradient((30, 150, 200), (95, 205, 215), y0=0.35, y1=0.58)
    canvas.fill_gradient((250, 228, 170), (232, 198, 130), y0=0.58)
    canvas.draw_dots(30, [(215, 180, 115), (255, 240, 200)], y0=0.62, y1=1.0, radius=0.006)


def paint_desert(canvas: UnitCanvas) -> None:
    """Paint two rows of dunes under an orange sky."""
    canvas.fill_gradient((255, 215, 150), (255, 238, 200), y1=0.5)
    canvas.fill_gradient((235, 175, 95), (200, 130, 60), y0=0.5)
    for y, colour in ((0.6, (225, 160, 82)), (0.78, (208, 140, 68))):
        x = canvas.rng.uniform(0.2, 0.8)
        canvas.draw_polygon([(-0.1, y + 0.1), (x, y - 0.08), (1.1, y + 0.12), (1.1, 1.1), (-0.1, 1.1)], colour)


def paint_forest(canvas: UnitCanvas) -> None:
    """Paint two rows of dark green trees over a forest floor."""
    canvas.fill_gradient((175, 215, 180), (120, 175, 130), y1=0.62)
    canvas.draw_hills(0.64, 0.5, 7, (62, 122, 82))
    canvas.draw_hills(0.68, 0.36, 9, (38, 92, 60))
    canvas.fill_gradient((72, 108, 55), (48, 78, 40), y0=0.66)


def paint_mountains(canvas: UnitCanvas) -> None:
    """Paint two mountain ranges behind a green plain."""
    canvas.fill_gradient((175, 210, 245), (232, 240, 250), y1=0.75)
    canvas.draw_hills(0.75, 0.5, 3, (135, 150, 185))
    canvas.draw_hills(0.77, 0.32, 4, (98, 115, 150))
    canvas.fill_gradient((125, 160, 110), (95, 135, 85), y0=0.74)


def paint_city(canvas: UnitCanvas) -> None:
    """Paint grey houses with lit windows along a road."""
    canvas.fill_gradient((200, 215, 232), (236, 236, 240), y1=0.75)
    for index in range(8):
        top, grey = canvas.rng.uniform(0.2, 0.5), canvas.rng.randint(105, 160)
        canvas.draw_rectangle(index / 8, top, (index + 0.86) / 8, 0.76, (grey, grey + 8, grey + 22))
        for row in range(int((0.72 - top) / 0.08)):
            y = top + 0.04 + row * 0.08
            canvas.draw_rectangle((index + 0.2) / 8, y, (index + 0.65) / 8, y + 0.03, (250, 232, 160))
    canvas.draw_rectangle(0.0, 0.75, 1.0, 1.0, (92, 95, 102))
    for index in range(4):
        canvas.draw_rectangle(index / 4 + 0.05, 0.865, index / 4 + 0.18, 0.885, (240, 240, 235))


def paint_underwater(canvas: UnitCanvas) -> None:
    """Paint blue water with bubbles over a sandy ground."""
    canvas.fill_gradient((65, 185, 215), (10, 70, 130), y1=0.85)
    canvas.fill_gradient((205, 190, 140), (180, 160, 110), y0=0.85)
    canvas.draw_dots(28, [(160, 225, 240), (200, 240, 250)], y0=0.0, y1=0.82, radius=0.011)


def paint_space(canvas: UnitCanvas) -> None:
    """Paint a purple nebula and stars."""
    canvas.fill_gradient((28, 8, 48), (60, 20, 85))
    canvas.draw_dots(6, [(85, 35, 115), (70, 30, 100)], y0=0.1, y1=0.9, radius=0.12)
    canvas.draw_dots(55, [(255, 255, 255), (255, 200, 240), (200, 255, 255)], y0=0.0, y1=1.0, radius=0.005)


def paint_room(canvas: UnitCanvas) -> None:
    """Paint a striped wallpaper over a wooden floor."""
    canvas.draw_rectangle(0.0, 0.0, 1.0, 0.68, (243, 222, 190))
    for index in range(8):
        canvas.draw_line(index / 8 + 0.06, 0.0, index / 8 + 0.06, 0.68, (234, 208, 170), width=0.012)
    canvas.draw_rectangle(0.0, 0.66, 1.0, 0.7, (250, 245, 235))
    canvas.fill_gradient((190, 135, 85), (165, 110, 65), y0=0.7)


def paint_flower_field(canvas: UnitCanvas) -> None:
    """Paint a green field with coloured dots of flowers."""
    canvas.fill_gradient((160, 220, 255), (225, 245, 255), y1=0.4)
    canvas.fill_gradient((130, 200, 100), (90, 170, 70), y0=0.4)
    canvas.draw_dots(
        55, [(255, 105, 150), (255, 220, 80), (255, 255, 255), (190, 110, 230)], y0=0.45, y1=1.0, radius=0.014
    )


def paint_blue_sky(canvas: UnitCanvas) -> None:
    """Paint a blue sky with five clouds."""
    canvas.fill_gradient((70, 160, 240), (175, 220, 255))
    canvas.draw_clouds(3, y0=0.12, y1=0.35)
    canvas.draw_clouds(2, y0=0.6, y1=0.88)


def paint_rain(canvas: UnitCanvas) -> None:
    """Paint a grey sky with slanted drops."""
    canvas.fill_gradient((125, 135, 150), (170, 178, 190))
    for _ in range(55):
        x, y = canvas.rng.random(), canvas.rng.uniform(-0.05, 1.0)
        canvas.draw_line(x, y, x - 0.02, y + 0.07, (205, 218, 235), width=0.006)


def paint_road(canvas: UnitCanvas) -> None:
    """Paint a grey road with lane marks between meadows."""
    canvas.fill_gradient((170, 215, 250), (225, 240, 252), y1=0.45)
    canvas.fill_gradient((140, 195, 100), (115, 175, 80), y0=0.45, y1=0.58)
    canvas.draw_rectangle(0.0, 0.58, 1.0, 1.0, (105, 108, 115))
    shift = canvas.rng.uniform(0.0, 0.1)
    for index in range(4):
        canvas.draw_rectangle(index / 4 + shift, 0.77, index / 4 + shift + 0.14, 0.8, (250, 250, 240))


def paint_sunset(canvas: UnitCanvas) -> None:
    """Paint a purple and orange sky with two clouds."""
    canvas.fill_gradient((85, 60, 130), (250, 140, 95), y1=0.6)
    canvas.fill_gradient((250, 140, 95), (255, 215, 130), y0=0.6)
    canvas.draw_clouds(2, y0=0.15, y1=0.4, colour=(215, 115, 125))
