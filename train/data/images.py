"""Conversions between uint8 images and model input, and image grids.

B batch, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 images (B, H, W, 3) to float32 (B, 3, H, W) on [-1, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels (B, 3, H, W) on [-1, 1] to uint8 images (B, H, W, 3)."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def tile_images(images: Tensor, *, columns: int) -> np.ndarray:
    """Arrange uint8 images (B, H, W, 3) in a grid, row by row: (rows * H, columns * W, 3), padded with white."""
    rows = -(-len(images) // columns)
    cells = torch.full((rows * columns, *images.shape[1:]), 255, dtype=torch.uint8)
    cells[: len(images)] = images.cpu()
    return rearrange(cells, "(r c) h w k -> (r h) (c w) k", c=columns).numpy()


def stack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of different widths vertically, padded with white on the right."""
    width = max(image.shape[1] for image in images)
    return np.concatenate(
        [np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=255) for image in images]
    )
