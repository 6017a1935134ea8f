"""The autoencoder task: pictures to latents and back.

B batch, C latent channels; pixels are (B, 3, H, W) on [-1, 1], latents (B, C, H/f, W/f).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from dianjing.train.config.autoencoder import (
    AutoencoderModelConfig,
    AutoencoderObjectiveConfig,
    AutoencoderSamplesConfig,
)
from dianjing.train.data.images import tile_images, to_pixels, to_uint8
from dianjing.train.data.samples import Batch
from dianjing.train.data.schedule import Bucket
from dianjing.train.export import load_weights, save_module
from dianjing.train.tasks.base import Task
from dianjing.train.tasks.pca_encoder import init_pca

INITIAL_LOG_VARIANCE = -6.0


def make_autoencoder(model: AutoencoderModelConfig, *, size_px: int) -> AutoencoderKL:
    levels = len(model.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=model.block_out_channels,
        layers_per_block=model.layers_per_block,
        latent_channels=model.latent_channels,
        norm_num_groups=model.norm_num_groups,
        sample_size=size_px,
    )


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) per latent number (Kingma & Welling 2014, Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def edge_l1_loss(a: Tensor, b: Tensor, *, num_scales: int) -> Tensor:
    """Mean L1 between the x and y differences of two pictures, over halved sizes."""
    difference, total = a - b, a.new_zeros(())
    for scale in range(num_scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / num_scales


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean peak signal-to-noise ratio in dB of pictures on [-1, 1]."""
    error = (a - b).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean()


class AutoencoderTask(Task):
    """AutoencoderKL on L1 + MSE + edges + KL."""

    def __init__(
        self,
        model: AutoencoderModelConfig,
        objective: AutoencoderObjectiveConfig,
        samples: AutoencoderSamplesConfig,
        *,
        validation_images: Tensor,
    ) -> None:
        """probe: uint8 (N, H, W, 3), shown in the grid and measured for the scaling factor."""
        super().__init__()
        self.vae = make_autoencoder(model, size_px=validation_images.shape[1])
        if model.encoder == "pca":
            init_pca(
                self.vae, to_pixels(validation_images), whitening=model.whitening, log_variance=INITIAL_LOG_VARIANCE
            )
        else:
            with torch.no_grad():  # start nearly deterministic
                self.vae.quant_conv.bias[model.latent_channels :] = INITIAL_LOG_VARIANCE
        if model.start_from is not None:
            load_weights(self.vae, model.start_from)
        self.objective, self.samples, self.validation_images = objective, samples, validation_images
        with torch.no_grad():
            self.latent_shape = self._encode_moments(to_pixels(validation_images[:1]))[0].shape[1:]
        self.compute_losses = self._compute_losses

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        self.validation_images = self.validation_images.to(device)

    def compile_modules(self, mode: str) -> None:
        self.compute_losses = torch.compile(self._compute_losses, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        shape = (bucket.shards.global_batch_size, *self.latent_shape)
        return {"latents": torch.randn(shape, generator=generator, device=generator.device)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        return self.compute_losses(batch["images"], noise["latents"])

    def _encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.vae.quant_conv(self.vae.encoder(pixels)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latents)).float()

    def _compute_losses(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        weights, pixels = self.objective, to_pixels(images)
        mean, log_variance = self._encode_moments(pixels)
        spread = (log_variance.exp() + weights.latent_noise**2).sqrt()
        decoded = self._decode(mean + spread * noise)
        l1, mse = F.l1_loss(decoded, pixels), F.mse_loss(decoded, pixels)
        edges = edge_l1_loss(decoded, pixels, num_scales=weights.edge_scales)
        kl = kl_loss(mean, log_variance)
        loss = weights.l1 * l1 + weights.mse * mse + weights.edge_l1 * edges + weights.kl * kl
        with torch.no_grad():
            quality = psnr(decoded.clamp(-1, 1), pixels)
        return {"loss": loss, "l1": l1, "mse": mse, "edge_l1": edges, "kl": kl, "psnr_db": quality}

    def sample_grid(self) -> np.ndarray:
        """Each row: pictures, and below them what comes back."""
        shown = self.validation_images[: self.samples.num_images]
        back = to_uint8(self._decode(self._encode_moments(to_pixels(shown))[0]))
        rows = [part for pair in zip(shown.split(8), back.split(8), strict=True) for part in pair]
        return tile_images(torch.cat(rows), columns=min(8, len(shown)))

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """vae/ with its scaling factor, 1 / the standard deviation of the probe's latents."""
        parts = [to_pixels(part) for part in self.validation_images.split(32)]
        latents = torch.cat([self._encode_moments(part)[0] for part in parts])
        back = [psnr(self._decode(self._encode_moments(p)[0]).clamp(-1, 1), p) for p in parts]
        figures = {
            "latents_mean": latents.mean(dim=(0, 2, 3)).tolist(),
            "latents_std": latents.std(dim=(0, 2, 3)).tolist(),
            "scaling_factor": 1 / latents.std().item(),
            "psnr_db": torch.stack(back).mean().item(),
            "num_images": len(self.validation_images),
        }
        self.vae.register_to_config(scaling_factor=figures["scaling_factor"])
        save_module(self.vae, folder / "vae", dtype)
        (folder / "vae" / "measured.json").write_text(json.dumps(figures, indent=1))
        return figures
