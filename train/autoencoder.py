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

from dianjing.train.data import Batch, Bucket
from dianjing.train.loop import Task
from dianjing.train.pictures import tile, to_pixels, to_uint8
from dianjing.train.principal import make_principal
from dianjing.train.sections import AutoencoderModel, AutoencoderObjective, AutoencoderSamples
from dianjing.train.weights import load_weights, save_module

FIRST_LOG_VARIANCE = -6.0


def make_autoencoder(model: AutoencoderModel, *, size_px: int) -> AutoencoderKL:
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


def kl_per_number(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) per latent number (Kingma & Welling 2014, Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def edge_distance(a: Tensor, b: Tensor, *, scales: int) -> Tensor:
    """Mean L1 between the x and y differences of two pictures, over halved sizes."""
    difference, total = a - b, a.new_zeros(())
    for scale in range(scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / scales


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean peak signal-to-noise ratio in dB of pictures on [-1, 1]."""
    error = (a - b).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean()


class AutoencoderTask(Task):
    """AutoencoderKL on L1 + MSE + edges + KL."""

    def __init__(
        self, model: AutoencoderModel, objective: AutoencoderObjective, samples: AutoencoderSamples,
        *, probe: Tensor,
    ) -> None:  # fmt: skip
        """probe: uint8 (N, H, W, 3), shown in the grid and measured for the scaling factor."""
        super().__init__()
        self.vae = make_autoencoder(model, size_px=probe.shape[1])
        if model.encoder == "principal":
            make_principal(self.vae, to_pixels(probe), whitening=model.whitening, log_variance=FIRST_LOG_VARIANCE)
        else:
            with torch.no_grad():  # start nearly deterministic
                self.vae.quant_conv.bias[model.latent_channels :] = FIRST_LOG_VARIANCE
        if model.start_from is not None:
            load_weights(self.vae, model.start_from)
        self.objective, self.samples, self.probe = objective, samples, probe
        with torch.no_grad():
            self.latent_shape = self._moments(to_pixels(probe[:1]))[0].shape[1:]
        self.losses = self._losses

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.probe = self.probe.to(device)

    def compile_parts(self, mode: str) -> None:
        self.losses = torch.compile(self._losses, mode=mode)

    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        shape = (bucket.layout.global_batch, *self.latent_shape)
        return {"latents": torch.randn(shape, generator=generator, device=generator.device)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        return self.losses(batch["images"], noise["latents"])

    def _moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.vae.quant_conv(self.vae.encoder(pixels)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latents)).float()

    def _losses(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        weights, pixels = self.objective, to_pixels(images)
        mean, log_variance = self._moments(pixels)
        spread = (log_variance.exp() + weights.latent_noise**2).sqrt()
        decoded = self._decode(mean + spread * noise)
        l1, mse = F.l1_loss(decoded, pixels), F.mse_loss(decoded, pixels)
        edges = edge_distance(decoded, pixels, scales=weights.edge_scales)
        kl = kl_per_number(mean, log_variance)
        loss = weights.l1 * l1 + weights.mse * mse + weights.edges * edges + weights.kl * kl
        with torch.no_grad():
            quality = psnr(decoded.clamp(-1, 1), pixels)
        return {"loss": loss, "l1": l1, "mse": mse, "edges": edges, "kl": kl, "psnr_db": quality}

    def grid(self) -> np.ndarray:
        """Each row: pictures, and below them what comes back."""
        shown = self.probe[: self.samples.pictures]
        back = to_uint8(self._decode(self._moments(to_pixels(shown))[0]))
        rows = [part for pair in zip(shown.split(8), back.split(8), strict=True) for part in pair]
        return tile(torch.cat(rows), columns=min(8, len(shown)))

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """vae/ with its scaling factor, 1 / the standard deviation of the probe's latents."""
        parts = [to_pixels(part) for part in self.probe.split(32)]
        latents = torch.cat([self._moments(part)[0] for part in parts])
        back = [psnr(self._decode(self._moments(p)[0]).clamp(-1, 1), p) for p in parts]
        figures = {
            "latents_mean": latents.mean(dim=(0, 2, 3)).tolist(),
            "latents_std": latents.std(dim=(0, 2, 3)).tolist(),
            "scaling_factor": 1 / latents.std().item(),
            "psnr_db": torch.stack(back).mean().item(),
            "pictures": len(self.probe),
        }
        self.vae.register_to_config(scaling_factor=figures["scaling_factor"])
        save_module(self.vae, folder / "vae", dtype)
        (folder / "vae" / "measured.json").write_text(json.dumps(figures, indent=1))
        return figures
