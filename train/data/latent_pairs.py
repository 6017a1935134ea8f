"""Latents and the images that they should be decoded to, in one safetensors file.

N pairs, C latent channels, Y X latent positions; latents (N, C, Y, X) are as an autoencoder encodes them, without its
scaling factor; images are uint8 (N, H, W, 3), masks bool (N, H, W).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dianjing.errors import DianjingError


class LatentPairs(NamedTuple):
    """Latents (N, C, Y, X), the images (N, H, W, 3) that they show, and where these have objects: masks (N, H, W)."""

    latents: Tensor
    images: Tensor
    masks: Tensor


def write_latent_pairs(path: Path, pairs: LatentPairs) -> None:
    """Write pairs to a file, whose folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(pairs._asdict(), path)


def join_latent_pairs(paths: Sequence[Path], output: Path) -> None:
    """Write the pairs of several files, of the same shapes, into one."""
    parts = [load_file(path) for path in paths]
    write_latent_pairs(output, LatentPairs(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}))


def read_latent_pairs(path: Path, *, latent_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> LatentPairs:
    """Read pairs of latents (C, Y, X) and images (H, W, 3) of the given shapes.

    Raises: DianjingError if the file cannot be read, holds something else, or has other shapes.
    """
    try:
        pairs = LatentPairs(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise DianjingError("latent_pairs_unreadable", path=path, reason=str(error)) from None
    shapes = tuple(tuple(each.shape[1:]) for each in pairs)
    counts = {len(each) for each in pairs}
    if shapes != (latent_shape, image_shape, image_shape[:2]) or len(counts) > 1 or 0 in counts:
        raise DianjingError(
            "latent_pairs_shapes",
            path=path,
            latents=tuple(pairs.latents.shape),
            images=tuple(pairs.images.shape),
            masks=tuple(pairs.masks.shape),
            latent_shape=latent_shape,
            image_shape=image_shape,
        )
    return pairs
