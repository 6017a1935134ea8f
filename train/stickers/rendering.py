"""Scenes to pixels."""

import numpy as np

from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.backgrounds import paint
from dianjing.train.stickers.scenes import CANVAS_PX, Item, Scene


def item_box(item: Item, size_px: int) -> tuple[int, int, int, int]:
    """x, y, width, height of an object at rest in a picture of `size_px`."""
    x, y, side = (value * size_px // CANVAS_PX for value in (item.x_px, item.y_px, item.size_px))
    return x, y, side, side


def lay_over(canvas: np.ndarray, pixels: np.ndarray, *, x: int, y: int) -> None:
    """Lay premultiplied pixels (h, w, 4) over the canvas (H, W, 3), in place."""
    height, width = pixels.shape[:2]
    under = canvas[y : y + height, x : x + width]
    left = under.astype(np.uint16) * (255 - pixels[..., 3:].astype(np.uint16)) + 128
    under[:] = pixels[..., :3] + ((left + (left >> 8)) >> 8).astype(np.uint8)  # a rounded division by 255


def render(scene: Scene, *, size_px: int) -> np.ndarray:
    """Draw the scene: uint8 (size_px, size_px, 3)."""
    canvas = paint(scene.background, scene.variant, size_px=size_px).copy()
    for item in scene.items:
        x, y, side, _ = item_box(item, size_px)
        lay_over(canvas, sprite(item.thing, size_px=side, colour=item.colour), x=x, y=y)
    return canvas
