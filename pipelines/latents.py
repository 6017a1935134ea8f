"""Noise in, latents out: drawn in float32 from one generator for each picture, decoded by the VAE.

B batch; latents are B C Y X or B C F Y X.
"""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

Generators = Generator | Sequence[Generator] | None


def draw_noise(shape: Sequence[int], generator: Generators, *, device: torch.device) -> Tensor:
    """Normal noise of `shape` (B, ...), picture by picture, always in float32.

    Of a list each picture has a generator to itself, so that a seed gives the same picture
    whatever the batch it sits in and whatever the dtype of the model.
    """
    batch_size, *rest = shape
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * batch_size
    rows = [randn_tensor((1, *rest), generator=each, device=device, dtype=torch.float32) for each in generators]
    return torch.cat(rows)


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, C, Y, X) of the diffusion model to pictures (B, 3, height, width) on [-1, 1]."""
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
