"""Between uint8 pictures and the tensors that models see."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) on [-1, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """[-1, 1] (B, 3, H, W) -> uint8 (B, H, W, 3)."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def tile_images(images: Tensor, *, columns: int) -> np.ndarray:
    """uint8 (B, H, W, 3) -> one picture, row by row; white where the last row ends early."""
    rows = -(-len(images) // columns)
    page = torch.full((rows * columns, *images.shape[1:]), 255, dtype=torch.uint8)
    page[: len(images)] = images.cpu()
    return rearrange(page, "(r c) h w k -> (r h) (c w) k", c=columns).numpy()


def stack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of different widths, one above the other; white beside the narrow ones."""
    width = max(page.shape[1] for page in images)
    return np.concatenate(
        [np.pad(page, ((0, 0), (0, width - page.shape[1]), (0, 0)), constant_values=255) for page in images]
    )
