"""Images to latents of the diffusion model and back, by the VAE; scaling stands here alone.

B batch, H height, W width; latents are B C Y X, for video VAEs B C F Y X.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dianjing.pipelines.tensor_checks import check_computed

ENCODE_BATCH_SIZE = 8


@torch.no_grad()
def encode_images(vae: Any, pixels: Tensor) -> Tensor:
    """Encode pixels (B, 3, H, W) on [-1, 1], on the device of the run, to scaled latents in the dtype of the VAE.

    The latents are the mode of the posterior. A video VAE takes (B, 3, F, H, W).
    """
    batches = pixels.to(vae.dtype).split(ENCODE_BATCH_SIZE)
    return scale_latents(vae, torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches]))


def scale_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scale latents of the VAE's encoder to those of the diffusion model, about of unit variance.

    A VAE without a factor, such as Wan's, has a mean and a deviation for every channel.
    """
    if "scaling_factor" in vae.config:
        return latents * vae.config.scaling_factor
    mean, std = _get_channel_statistics(vae, latents)
    return (latents - mean) / std


def unscale_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scale latents of the diffusion model back to those of the VAE: the inverse of `scale_latents`."""
    if "scaling_factor" in vae.config:
        return latents / vae.config.scaling_factor
    mean, std = _get_channel_statistics(vae, latents)
    return latents * std + mean


def _get_channel_statistics(vae: Any, latents: Tensor) -> tuple[Tensor, ...]:
    return tuple(latents.new_tensor(vae.config[f"latents_{name}"]).view(-1, 1, 1, 1) for name in ("mean", "std"))


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Decode scaled latents (B, C, Y, X) to pixels (B, 3, H, W), about on [-1, 1]; a video VAE's have F after C."""
    return vae.decode(unscale_latents(vae, latents).to(vae.dtype), return_dict=False)[0]


def decode_result(vae: Any, latents: Tensor) -> Tensor:
    """Decode the latents of a result, as `decode_latents` does.

    Raises: DianjingError for pixels that are not finite.
    """
    pixels = decode_latents(vae, latents)
    check_computed(pixels, vae)
    return pixels


def pixels_to_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels on [-1, 1] to uint8 on the CPU."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def frames_to_pixels(frames: np.ndarray, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Convert frames, uint8 (B, H, W, 3), to pixels (B, 3, H, W) on [-1, 1]."""
    numbers = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
    return numbers.to(device, dtype) / 127.5 - 1
