"""The autoencoder task: images to latents and back.

B batch, C latent channels, N validation images, f downsampling factor; pixels are (B, 3, H, W) on [-1, 1], latents
(B, C, H/f, W/f).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor

from dianjing.train.config.autoencoder import (
    AutoencoderModelConfig,
    AutoencoderObjectiveConfig,
    AutoencoderRunConfig,
    AutoencoderSamplesConfig,
)
from dianjing.train.data.images import tile_images, to_pixels, to_uint8
from dianjing.train.data.latent_pairs import LatentPairs, read_latent_pairs
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.samples import Batch, CaptionEncoder, SampleSource
from dianjing.train.data.schedule import BatchShards, Bucket, make_image_schedule
from dianjing.train.export import load_autoencoder, load_weights, save_module
from dianjing.train.tasks.base import CardSections, Task
from dianjing.train.tasks.discriminator import PatchDiscriminator, adversarial_losses
from dianjing.train.tasks.image_losses import edge_l1_loss, psnr, ssim_loss, weigh_objects, weighted_mean
from dianjing.train.tasks.pca_encoder import copy_pca_encoder, extend_decoder, fold_to_conv, init_pca
from dianjing.train.tasks.scratch import VALIDATION_SEED_OFFSET, ScratchDefinition

INITIAL_LOG_VARIANCE = -6.0
MASKS_KEY = "object_masks"
OBJECT_MARGIN_PX = 4
USAGE = """\
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("FOLDER/vae")"""


def make_autoencoder(model: AutoencoderModelConfig, *, size_px: int) -> AutoencoderKL:
    """A new AutoencoderKL for images of about `size_px`."""
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
    """KL(N(mean, variance) || N(0, 1)), averaged over latent numbers (Kingma & Welling 2014, Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class ObjectMaskEncoder:
    """A CaptionEncoder that returns where the objects of images are."""

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """Masks (B, H, W) under MASKS_KEY."""
        return {MASKS_KEY: torch.from_numpy(np.stack([sample.masks.any(axis=0) for sample in samples]))}


class AutoencoderTask(Task):
    """Trains an AutoencoderKL on L1, MSE, edge and KL losses, on SSIM and adversarial ones where they have a weight.

    `validation_images`, uint8 (N, H, W, 3), are shown in the sample grid and give the statistics of the export.
    `latent_pairs` take the place of a share of the samples: latents of a diffusion model, beside what they show.
    """

    def __init__(
        self,
        model: AutoencoderModelConfig,
        objective: AutoencoderObjectiveConfig,
        samples: AutoencoderSamplesConfig,
        *,
        validation_images: Tensor,
    ) -> None:
        super().__init__()
        self.vae = make_autoencoder(model, size_px=validation_images.shape[1])
        self.scaling_factor: float | None = None
        if model.encoder_from is not None:
            source = load_autoencoder(model.encoder_from)
            images = to_pixels(validation_images)
            copy_pca_encoder(self.vae, source, images, whitening=model.whitening, log_variance=INITIAL_LOG_VARIANCE)
            extend_decoder(self.vae, source)
            self.scaling_factor = source.config.scaling_factor  # for models that were trained on its latents
        elif model.encoder == "pca":
            init_pca(
                self.vae, to_pixels(validation_images), whitening=model.whitening, log_variance=INITIAL_LOG_VARIANCE
            )
        else:
            with torch.no_grad():  # a small variance at the start
                self.vae.quant_conv.bias[model.latent_channels :] = INITIAL_LOG_VARIANCE
        if model.start_from is not None:
            load_weights(self.vae, model.start_from)
        self.folded_encoder = fold_to_conv(self.vae)  # five times as fast; None if the encoder is trained
        if self.folded_encoder is not None:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        self.discriminator = PatchDiscriminator(objective.discriminator_widths) if objective.has_discriminator else None
        self.objective, self.samples, self.validation_images = objective, samples, validation_images
        self.latent_pairs: LatentPairs | None = None
        with torch.no_grad():
            self.latent_shape = self._encode_moments(to_pixels(validation_images[:1]))[0].shape[1:]
        self.compute_losses = self._compute_losses

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        self.validation_images = self.validation_images.to(device)

    def compile_modules(self, mode: str) -> None:
        self.compute_losses = torch.compile(self._compute_losses, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        count, device = bucket.shards.global_batch_size, generator.device
        posterior, latents = torch.randn(2, count, *self.latent_shape, generator=generator, device=device)
        levels = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        noise = {"posterior": posterior, "latents": latents, "levels": levels}
        if self.latent_pairs is not None:
            num_pairs, share = len(self.latent_pairs.latents), self.objective.latent_pairs_share
            noise["pair_index"] = torch.randint(num_pairs, (count,), generator=generator, device=device)
            noise["is_pair"] = torch.rand(count, generator=generator, device=device) < share
        return noise

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        return self.compute_losses(batch["images"], batch.get(MASKS_KEY), noise)

    def _encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.folded_encoder is not None:
            mean = self.folded_encoder(pixels)
            return mean, torch.full_like(mean, INITIAL_LOG_VARIANCE)
        moments = self.vae.quant_conv(self.vae.encoder(pixels)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latents)).float()

    def _compute_losses(self, images: Tensor, masks: Tensor | None, noise: Batch) -> dict[str, Tensor]:
        objective, pixels = self.objective, to_pixels(images)
        mean, log_variance = self._encode_moments(pixels)
        latents = mean + (0.5 * log_variance).exp() * noise["posterior"]
        latents = latents + objective.latent_noise * noise["levels"] * noise["latents"]
        if self.latent_pairs is not None:
            latents, pixels, masks = _insert_pairs(latents, pixels, masks, self.latent_pairs, noise)
        weights = None
        if masks is not None and objective.object_share is not None:
            weights = weigh_objects(masks, share=objective.object_share, margin_px=OBJECT_MARGIN_PX)
        decoded = self._decode(latents)
        difference = decoded - pixels
        l1, mse = weighted_mean(difference.abs(), weights), weighted_mean(difference.square(), weights)
        edges = edge_l1_loss(decoded, pixels, num_scales=objective.edge_scales, weights=weights)
        kl = kl_loss(mean, log_variance)
        loss = objective.l1 * l1 + objective.mse * mse + objective.edge_l1 * edges + objective.kl * kl
        metrics = {"l1": l1, "mse": mse, "edge_l1": edges, "kl": kl}
        if objective.ssim:
            metrics["ssim"] = ssim_loss(decoded, pixels, num_scales=objective.edge_scales, weights=weights)
            loss = loss + objective.ssim * metrics["ssim"]
        if self.discriminator is not None:
            losses = adversarial_losses(self.discriminator, decoded, pixels)
            loss = loss + objective.adversarial * losses["adversarial"] + objective.features * losses["features"]
            loss = loss + losses["discriminator"]
            metrics |= losses
        with torch.no_grad():
            psnr_db = psnr(decoded.clamp(-1, 1), pixels)
        return {"loss": loss, **metrics, "psnr_db": psnr_db}

    def sample_grid(self) -> np.ndarray:
        """Rows of images, each above a row of their reconstructions."""
        images = self.validation_images[: self.samples.num_images]
        reconstructed = to_uint8(self._decode(self._encode_moments(to_pixels(images))[0]))
        rows = [part for pair in zip(images.split(8), reconstructed.split(8), strict=True) for part in pair]
        return tile_images(torch.cat(rows), columns=min(8, len(images)))

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write vae/ with its scaling factor: that of `encoder_from`, or else 1 / standard deviation of the latents of
        the validation images.
        """
        batches = [to_pixels(images) for images in self.validation_images.split(32)]
        latents = torch.cat([self._encode_moments(pixels)[0] for pixels in batches])
        psnr_db = [psnr(self._decode(self._encode_moments(p)[0]).clamp(-1, 1), p) for p in batches]
        figures = {
            "latents_mean": latents.mean(dim=(0, 2, 3)).tolist(),
            "latents_std": latents.std(dim=(0, 2, 3)).tolist(),
            "scaling_factor": self.scaling_factor or 1 / latents.std().item(),
            "psnr_db": torch.stack(psnr_db).mean().item(),
            "num_images": len(self.validation_images),
        }
        self.vae.register_to_config(scaling_factor=figures["scaling_factor"])
        save_module(self.vae, folder / "vae", dtype)
        (folder / "vae" / "measured.json").write_text(json.dumps(figures, indent=1))
        return figures


def _insert_pairs(
    latents: Tensor, pixels: Tensor, masks: Tensor | None, pairs: LatentPairs, noise: Batch
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Replace the chosen rows of latents (B, C, H/f, W/f), pixels (B, 3, H, W) and masks (B, H, W) by pairs."""
    rows = noise["is_pair"].nonzero().flatten()
    index = noise["pair_index"][rows].to(pairs.latents.device)
    latents = latents.index_copy(0, rows, pairs.latents[index].to(latents))
    pixels = pixels.index_copy(0, rows, to_pixels(pairs.images[index]).to(pixels))
    return latents, pixels, masks if masks is None else masks.index_copy(0, rows, pairs.masks[index].to(masks))


class AutoencoderDefinition(ScratchDefinition[AutoencoderRunConfig]):
    """The definition of task "autoencoder"."""

    config_class = AutoencoderRunConfig

    def make_task(
        self, config: AutoencoderRunConfig, source: SampleSource, accelerator: Accelerator
    ) -> tuple[Task, CaptionEncoder | None]:
        samples = config.samples
        images = render_validation_images(
            source, seed=config.run.seed, count=max(samples.num_images, samples.num_statistics_images)
        )
        task = AutoencoderTask(config.model, config.objective, samples, validation_images=images)
        if config.objective.latent_pairs is not None:
            task.latent_pairs = read_latent_pairs(
                config.objective.latent_pairs,
                latent_shape=tuple(task.latent_shape),
                image_shape=tuple(images.shape[1:]),
            )
        return task, None if config.objective.object_share is None else ObjectMaskEncoder()

    def make_card_sections(self, config: AutoencoderRunConfig, folder: Path) -> CardSections:
        return CardSections(description="An autoencoder", usage=USAGE)


def render_validation_images(source: SampleSource, *, seed: int, count: int) -> Tensor:
    """Images that are not trained on, uint8 (count, H, W, 3)."""
    shards = BatchShards(global_batch_size=count, accumulation_steps=1, num_processes=1, rank=0)
    schedule = make_image_schedule(source, shards, seed=seed + VALIDATION_SEED_OFFSET)
    return MicroBatchDataset(schedule, seed=seed)[0]["images"]
