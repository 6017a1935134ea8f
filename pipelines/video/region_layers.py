"""Layers of an image: each moving region cut out with soft edges, over the background inpainted behind them.

H height, W width, C channels: RGB, or RGB multiplied by alpha and alpha. Values are float32 on [0, 255].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dianjing.pipelines.video.inpainting import find_contact_shadow, inpaint
from dianjing.pipelines.video.matting import compute_matte
from dianjing.pipelines.video.shadows import get_shadow_reach, measure_opacity

MAX_LEVELS = 6  # of half the size each
HOLE_MARGIN_PX = 2  # around a matte, where an object's colors still show


@dataclass(frozen=True)
class RegionLayer:
    """A region cut out of an image.

    pixels: (h, w, C + 1) of its box, the colors times the opacity, and the opacity on [0, 1]. left, top: of the box,
    in px.
    """

    pixels: np.ndarray
    left: int
    top: int

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """The pixels at full size, at half of it, and so on, to sample from where the region shrinks."""
        levels = [self.pixels]
        while len(levels) < MAX_LEVELS and min(levels[-1].shape[:2]) >= 4:
            height, width = levels[-1].shape[:2]
            even = levels[-1][: height // 2 * 2, : width // 2 * 2]
            levels.append(cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        return levels


@dataclass(frozen=True)
class LayeredImage:
    """An image (H, W, C) uint8 with its layers: background (H, W, C) uint8, and the regions from bottom to top.

    image: as it was given. background: multiplied by alpha, if there is one. occupied: bool (H, W), where regions and
    their shadows were. Where nothing was, the background is the image. All layers where they were give the image again,
    but for the texture within shadows. shadows: one for each layer, None without one.
    """

    image: np.ndarray
    background: np.ndarray
    layers: tuple[RegionLayer, ...]
    occupied: np.ndarray
    shadows: tuple[RegionLayer | None, ...]


def split_layers(
    image: np.ndarray, masks: Sequence[np.ndarray], *, stands_free: Sequence[bool] | None = None
) -> LayeredImage:
    """Split an image, uint8 (H, W, 3) or with alpha (H, W, 4), into the layers of its masks, bool (H, W).

    stands_free: for each mask whether it is an object by itself, which may cast a shadow beside it, and not a part.
    """
    colors = premultiply(image)
    mattes: list[np.ndarray] = []
    for mask in reversed(masks):  # what lies on top hides what is below
        matte = compute_matte(np.ascontiguousarray(image[..., :3]), mask)
        for other in mattes:
            matte = np.minimum(matte, 1 - other)
        mattes.append(matte)
    mattes.reverse()
    occupied = np.zeros(image.shape[:2], bool)
    for matte in mattes:
        occupied |= matte > 0
    shadow_masks: list[np.ndarray | None] = []
    for matte, is_free in zip(mattes, stands_free or [False] * len(mattes), strict=True):
        shadow = _find_shadow(image, matte > 0, occupied) if is_free else None
        shadow_masks.append(shadow)
        if shadow is not None:
            occupied |= shadow
    background = _fill_background(colors, occupied)
    shadows: list[RegionLayer | None] = []
    below = background.astype(np.float32)
    for matte, mask in zip(mattes, shadow_masks, strict=True):
        if mask is None:
            shadows.append(None)
            continue
        opacity = measure_opacity(colors, background, matte > 0, mask)
        shadows.append(_cut_shadow(opacity, margin=round(get_shadow_reach(matte > 0))))
        below *= 1 - opacity[..., None]  # what shows through the soft edges of an object is in its shadow
    layers = []
    for matte in mattes:
        layers.append(_cut_out(colors, below, matte))
        below[matte > 0] = colors[matte > 0]
    return LayeredImage(
        image=image, background=background, layers=tuple(layers), occupied=occupied, shadows=tuple(shadows)
    )


def premultiply(image: np.ndarray) -> np.ndarray:
    """Multiply the colors of an image (H, W, 4) by its alpha; an image (H, W, 3) is returned as it is."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    colors = (image[..., :3] * alpha).round().astype(np.uint8)
    return np.concatenate([colors, image[..., 3:]], axis=-1)


def divide_by_alpha(pixels: np.ndarray) -> np.ndarray:
    """Undo `premultiply` on pixels (N, C), float32."""
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:]
    return np.concatenate([pixels[..., :3] * (255 / np.maximum(alpha, 1e-3)), alpha], axis=-1)


def _fill_background(colors: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    hole = cv2.dilate(occupied.astype(np.uint8), np.ones((2 * HOLE_MARGIN_PX + 1,) * 2, np.uint8)) > 0
    filled = inpaint(np.ascontiguousarray(colors[..., :3]), hole)
    if colors.shape[2] == 4:
        alpha = inpaint(np.repeat(colors[..., 3:], 3, axis=2), hole)[..., :1]
        filled = np.concatenate([np.minimum(filled, alpha), alpha], axis=-1)
    return np.where(occupied[..., None], filled, colors)


def _find_shadow(image: np.ndarray, hole: np.ndarray, occupied: np.ndarray) -> np.ndarray | None:
    """Find the shadow of an object outside of all objects, bool (H, W); an image with alpha has none."""
    if image.shape[2] == 4:
        return None
    shadow = find_contact_shadow(image, hole) & ~occupied
    return shadow if shadow.any() else None


def _cut_shadow(opacity: np.ndarray, *, margin: int) -> RegionLayer:
    """Make a black layer, as opaque as a shadow is dark, and goes on for a margin beyond the borders of the image."""
    opacity = _extend(opacity, margin)
    rows, columns = (np.nonzero((opacity > 0).any(axis=axis))[0] for axis in (1, 0))
    if not len(rows):
        return RegionLayer(np.zeros((1, 1, 4), np.float32), 0, 0)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels = np.zeros((*opacity[box].shape, 4), np.float32)
    pixels[..., 3] = opacity[box]
    return RegionLayer(pixels, int(columns[0]) - margin, int(rows[0]) - margin)


def _extend(opacity: np.ndarray, margin: int) -> np.ndarray:
    """Extend a shadow beyond the borders of the image, where it fades out: what is beyond may move into the image."""
    padded = np.pad(opacity, margin, mode="edge")
    height, width = opacity.shape
    down, across = (
        np.maximum(np.abs(np.arange(-margin, n + margin) - (n - 1) / 2) - (n - 1) / 2, 0) for n in (height, width)
    )
    distance = np.hypot(down[:, None], across) / max(1, margin)
    return (padded * (0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1)))).astype(np.float32)


def _cut_out(colors: np.ndarray, below: np.ndarray, matte: np.ndarray) -> RegionLayer:
    """Cut a region out: image = pixels + (1 - opacity) below holds where it is exactly."""
    rows, columns = (np.nonzero((matte > 0).any(axis=axis))[0] for axis in (1, 0))
    if not len(rows):  # hidden by other regions
        return RegionLayer(np.zeros((1, 1, colors.shape[2] + 1), np.float32), 0, 0)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    opacity = matte[box][..., None]
    pixels = colors[box].astype(np.float32) - (1 - opacity) * below[box]
    return RegionLayer(np.concatenate([pixels * (opacity > 0), opacity], axis=-1), int(columns[0]), int(rows[0]))
