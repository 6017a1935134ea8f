"""Rendering of scenes and of single posed sprites, with premultiplied alpha.

S image side in pixels; h, w height and width of a sprite's pixels. Positions of a scene are pixels of a canvas that is
CANVAS_PX wide.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.motions import SpritePose
from dianjing.train.stickers.scenes import CANVAS_PX, SpriteInstance, StickerScene


def get_instance_box(instance: SpriteInstance, size_px: int) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) of an instance at rest, in pixels of an image of `size_px`."""
    x, y, side = (value * size_px // CANVAS_PX for value in (instance.x_px, instance.y_px, instance.size_px))
    return x, y, side, side


def get_rest_center(instance: SpriteInstance, size_px: int) -> tuple[float, float, int]:
    """Return centre x, centre y and side of an instance at rest, in pixels of an image of `size_px`."""
    x, y, side, _ = get_instance_box(instance, size_px)
    return x + side / 2, y + side / 2, side


def scale_pose(pose: SpritePose, size_px: int) -> SpritePose:
    """Convert the offset of a pose from pixels of the canvas to pixels of an image of `size_px`."""
    ratio = size_px / CANVAS_PX
    return SpritePose(**{**vars(pose), "dx": pose.dx * ratio, "dy": pose.dy * ratio})


def composite_premultiplied(canvas: np.ndarray, pixels: np.ndarray, *, x: int, y: int) -> None:
    """Composite premultiplied uint8 RGBA pixels (h, w, 4) over the canvas (S, S, 3) at (x, y), in place."""
    height, width = pixels.shape[:2]
    below = canvas[y : y + height, x : x + width]
    transmitted = below.astype(np.uint16) * (255 - pixels[..., 3:].astype(np.uint16)) + 128
    below[:] = pixels[..., :3] + ((transmitted + (transmitted >> 8)) >> 8).astype(np.uint8)  # rounded division by 255


def render_scene(scene: StickerScene, *, size_px: int) -> np.ndarray:
    """Render a scene at rest: uint8 (S, S, 3); S is `size_px`."""
    canvas = render_background(scene.background, scene.variant, size_px=size_px).copy()
    _composite_instances(canvas, scene)
    return canvas


def render_instances(scene: StickerScene, *, size_px: int) -> np.ndarray:
    """Render the objects of a scene alone, on white: uint8 (S, S, 3); S is `size_px`."""
    canvas = np.full((size_px, size_px, 3), 255, np.uint8)
    _composite_instances(canvas, scene)
    return canvas


def measure_contrast(scene: StickerScene, *, size_px: int) -> float:
    """Measure how far the object with the least contrast changes the background: the mean absolute difference of pixels
    (0 to 255) in its box, so that a thin object counts as one that is pale.
    """
    background = render_background(scene.background, scene.variant, size_px=size_px)
    contrasts = []
    for instance in scene.instances:
        x, y, side, _ = get_instance_box(instance, size_px)
        below = background[y : y + side, x : x + side]
        canvas = below.copy()
        composite_premultiplied(canvas, get_sprite(instance.class_id, size_px=side, colour=instance.colour), x=0, y=0)
        contrasts.append(float(np.abs(canvas.astype(np.int16) - below).mean()))
    return min(contrasts)


def _composite_instances(canvas: np.ndarray, scene: StickerScene) -> None:
    """Composite the objects of a scene over the canvas (S, S, 3), in place."""
    for instance in scene.instances:
        x, y, side, _ = get_instance_box(instance, len(canvas))
        sprite = get_sprite(instance.class_id, size_px=side, colour=instance.colour)
        composite_premultiplied(canvas, sprite, x=x, y=y)


@dataclass(frozen=True)
class SpriteFrame:
    """A posed sprite in one frame: premultiplied uint8 RGBA pixels (h, w, 4) at (x, y), clipped to the image."""

    pixels: np.ndarray
    x: int
    y: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the pixels cover."""
        height, width = self.pixels.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def render_sprite(instance: SpriteInstance, pose: SpritePose, *, size_px: int) -> SpriteFrame:
    """Render one instance in a pose, for an image of `size_px`; it has no pixels where it lies outside."""
    center_x, center_y, side = get_rest_center(instance, size_px)
    sprite = get_sprite(instance.class_id, size_px=side, colour=instance.colour)
    scaled_pose = scale_pose(pose, size_px)
    edge = np.linspace(-1, 1, 9)
    u, v = (part.ravel() for part in np.meshgrid(edge, edge))
    x, y = scaled_pose.map_forward(u, v, side_px=side)
    left, top = (max(0, int(np.floor(c + offsets.min()))) for c, offsets in ((center_x, x), (center_y, y)))
    right, bottom = (min(size_px, int(np.ceil(c + offsets.max()))) for c, offsets in ((center_x, x), (center_y, y)))
    columns = np.arange(left, max(left, right), dtype=np.float32) + 0.5 - center_x
    rows = np.arange(top, max(top, bottom), dtype=np.float32) + 0.5 - center_y
    if not (columns.size and rows.size):
        return SpriteFrame(np.zeros((0, 0, 4), np.uint8), 0, 0)
    u, v = scaled_pose.map_backward(*np.meshgrid(columns, rows), side_px=side)
    from_x, from_y = (((w + 1) * side / 2 - 0.5).astype(np.float32) for w in (u, v))
    pixels = np.asarray(cv2.remap(sprite, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
    return SpriteFrame(pixels, left, top)
