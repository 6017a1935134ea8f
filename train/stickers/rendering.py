"""Scenes to pixels."""

from dataclasses import dataclass

import cv2
import numpy as np

from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.motions import SpritePose
from dianjing.train.stickers.scenes import CANVAS_PX, SpriteInstance, StickerScene


def get_instance_box(instance: SpriteInstance, size_px: int) -> tuple[int, int, int, int]:
    """x, y, width, height of an object at rest in a picture of `size_px`."""
    x, y, side = (value * size_px // CANVAS_PX for value in (instance.x_px, instance.y_px, instance.size_px))
    return x, y, side, side


def composite_premultiplied(canvas: np.ndarray, pixels: np.ndarray, *, x: int, y: int) -> None:
    """Lay premultiplied pixels (h, w, 4) over the canvas (H, W, 3), in place."""
    height, width = pixels.shape[:2]
    under = canvas[y : y + height, x : x + width]
    left = under.astype(np.uint16) * (255 - pixels[..., 3:].astype(np.uint16)) + 128
    under[:] = pixels[..., :3] + ((left + (left >> 8)) >> 8).astype(np.uint8)  # a rounded division by 255


def render_scene(scene: StickerScene, *, size_px: int) -> np.ndarray:
    """Draw the scene: uint8 (size_px, size_px, 3)."""
    canvas = render_background(scene.background, scene.variant, size_px=size_px).copy()
    for item in scene.instances:
        x, y, side, _ = get_instance_box(item, size_px)
        composite_premultiplied(canvas, get_sprite(item.class_id, size_px=side, colour=item.colour), x=x, y=y)
    return canvas


@dataclass(frozen=True)
class SpriteFrame:
    """An object in one frame: premultiplied RGBA pixels (h, w, 4) at (x, y), clipped to the picture."""

    pixels: np.ndarray
    x: int
    y: int

    @property
    def slices(self) -> tuple[slice, slice]:
        height, width = self.pixels.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def get_rest_center(instance: SpriteInstance, size_px: int) -> tuple[float, float, int]:
    """Centre and side of an object at rest, in pixels of the picture."""
    x, y, side, _ = get_instance_box(instance, size_px)
    return x + side / 2, y + side / 2, side


def scale_pose(pose: SpritePose, size_px: int) -> SpritePose:
    """A pose of the canvas in pixels of the picture."""
    ratio = size_px / CANVAS_PX
    return SpritePose(**{**vars(pose), "dx": pose.dx * ratio, "dy": pose.dy * ratio})


def render_sprite(instance: SpriteInstance, pose: SpritePose, *, size_px: int) -> SpriteFrame:
    """An object in a pose."""
    centre_x, centre_y, side = get_rest_center(instance, size_px)
    still = get_sprite(instance.class_id, size_px=side, colour=instance.colour)
    edge = np.linspace(-1, 1, 9)
    u, v = (part.ravel() for part in np.meshgrid(edge, edge))
    x, y = scale_pose(pose, size_px).map_forward(u, v, side_px=side)
    left, top = (max(0, int(np.floor(c + offsets.min()))) for c, offsets in ((centre_x, x), (centre_y, y)))
    right, bottom = (min(size_px, int(np.ceil(c + offsets.max()))) for c, offsets in ((centre_x, x), (centre_y, y)))
    columns = np.arange(left, max(left, right), dtype=np.float32) + 0.5 - centre_x
    rows = np.arange(top, max(top, bottom), dtype=np.float32) + 0.5 - centre_y
    if not (columns.size and rows.size):
        return SpriteFrame(np.zeros((0, 0, 4), np.uint8), 0, 0)
    u, v = scale_pose(pose, size_px).map_backward(*np.meshgrid(columns, rows), side_px=side)
    from_x, from_y = (((w + 1) * side / 2 - 0.5).astype(np.float32) for w in (u, v))
    pixels = np.asarray(cv2.remap(still, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
    return SpriteFrame(pixels, left, top)
