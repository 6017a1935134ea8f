"""Images and masks as callers pass them, converted to tensors: PIL, NumPy or torch, one or a list.

N images, H height, W width; latents are N C Y X.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from diffusers.image_processor import PipelineImageInput
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.media.mask import to_mask
from dianjing.pipelines.tensor_checks import check_tensor


def are_latents(images: object, *, num_channels: int) -> TypeGuard[Tensor]:
    """True for a tensor (N, C, Y, X) of latents in place of pixels: one of the model's channels, which are not 3."""
    return isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == num_channels != 3


def read_pixels(images: PipelineImageInput, *, name: str) -> Tensor:
    """Convert images of one size to pixels (N, 3, H, W), float32 on [0, 1].

    images: PIL of any mode; NumPy (H, W, 3) or (N, H, W, 3), uint8 or floats on [0, 1]; tensors (3, H, W) or
    (N, 3, H, W), floats on [0, 1]; or a list of them. Floats of which any is negative are on [-1, 1], as in diffusers.
    Raises: DianjingError for anything else, for numbers that are not finite or out of range, and for several sizes.
    """
    parts = [_to_tensor(image, name=name) for image in _to_list(images, name=name)]
    _check_equal_sizes(parts, name=name)
    return torch.cat(parts)


def read_masks(masks: Any, *, name: str) -> Tensor:
    """Convert masks of one size to bool (N, 1, H, W), true where white.

    masks: what `to_mask` takes; a tensor (H, W), (1, H, W) or (N, 1, H, W) on [0, 1]; or a list of them.
    Raises: DianjingError for anything else, and for several sizes.
    """
    parts: list[Tensor] = []
    for mask in _to_list(masks, name=name):
        if isinstance(mask, Tensor):
            check_tensor(mask, name)
            if mask.ndim > 4 or mask.ndim < 2 or (mask.ndim > 2 and mask.shape[-3] != 1):
                raise DianjingError(
                    "tensor_shape", name=name, shape=str(tuple(mask.shape)), expected="(batch, 1, height, width)"
                )
            parts.append(
                (mask.cpu() if mask.dtype == torch.bool else mask.cpu() >= 0.5).reshape(-1, 1, *mask.shape[-2:])
            )
        else:
            parts.append(torch.from_numpy(to_mask(mask, name=name).copy())[None, None])
    _check_equal_sizes(parts, name=name)
    return torch.cat(parts)


def resize_pixels(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """Scale pixels (N, 3, H, W) on [0, 1] to a size, smoothly also where they are reduced."""
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    return interpolate(pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _to_list(images: Any, *, name: str) -> Sequence[Any]:
    if images is None:
        raise DianjingError("image_missing", name=name)
    listed = images if isinstance(images, list | tuple) else [images]
    if not listed:
        raise DianjingError("image_missing", name=name)
    return listed


def _to_tensor(image: object, *, name: str) -> Tensor:
    """Convert one image, or an array of several, to pixels (N, 3, H, W) on [0, 1]."""
    if isinstance(image, Image.Image):
        return _from_levels(np.asarray(check_image(image)))
    description = _describe(image)
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim in (3, 4) and image.shape[-1] == 3:
            return _from_levels(image)
        image = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, -3) if _is_float_image(image) else image
    if (
        not isinstance(image, Tensor)
        or image.ndim not in (3, 4)
        or image.shape[-3] != 3
        or not image.is_floating_point()
        or not image.numel()
    ):
        raise DianjingError("image_input_unsupported", name=name, given=description)
    check_tensor(image, name)
    pixels = image.detach().float().cpu().reshape(-1, *image.shape[-3:])
    low, high = float(pixels.min()), float(pixels.max())
    if low < -1 or high > 1:
        raise DianjingError("image_input_out_of_range", name=name, low=f"{low:g}", high=f"{high:g}")
    return pixels if low >= 0 else pixels / 2 + 0.5


def _from_levels(levels: np.ndarray) -> Tensor:
    """Convert uint8 (H, W, 3) or (N, H, W, 3) to pixels (N, 3, H, W) on [0, 1]."""
    return torch.from_numpy(levels.copy()).movedim(-1, -3).float().div(255).reshape(-1, 3, *levels.shape[-3:-1])


def _is_float_image(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.ndim in (3, 4) and array.size > 0


def _describe(image: object) -> str:
    """The type of an image that cannot be used, with the shape and dtype of an array."""
    if isinstance(image, np.ndarray | Tensor):
        return f"{type(image).__name__} {tuple(image.shape)} {image.dtype}"
    return type(image).__name__


def _check_equal_sizes(parts: Sequence[Tensor], *, name: str) -> None:
    sizes = sorted({f"{part.shape[-1]} x {part.shape[-2]}" for part in parts})
    if len(sizes) > 1:
        raise DianjingError("images_of_several_sizes", name=name, sizes=sizes)
