"""The segmenter task: point prompts on an image to the mask of an object, trained on exact masks.

B batch, K objects, C latent channels, f downsampling factor of an autoencoder; images are uint8 (B, H, W, 3), masks
and point heatmaps (B, H, W).
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import UNet2DModel
from torch import Tensor

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER, Point
from dianjing.pipelines.segmentation.unet import NUM_INPUTS, make_point_heatmap, predict_mask_logits
from dianjing.train.config.segmenter import SegmenterModelConfig, SegmenterObjectiveConfig, SegmenterRunConfig
from dianjing.train.data.images import tile_images, to_pixels
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.samples import Batch, CaptionEncoder, SampleSource
from dianjing.train.data.schedule import BatchShards, Bucket, make_image_schedule
from dianjing.train.export import load_autoencoder, load_weights, save_module
from dianjing.train.tasks.base import CardSections, Task
from dianjing.train.tasks.pca_encoder import fold_to_conv
from dianjing.train.tasks.scratch import VALIDATION_SEED_OFFSET, ScratchDefinition
from dianjing.weights.image_sizes import get_scale_factor

MAX_POINTS = 3
NEGATIVE_PROBABILITY = 0.7  # of the last of several points being a negative one, and of its being on another object
POINT_KEYS = ("point_maps", "masks")
CROSS_ENTROPY_WEIGHT = 4.0  # relative to the Dice loss
NUM_VALIDATION_SAMPLES = 256
USAGE = """\
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.pipelines.segmentation.unet import UNetSegmenter

segmenter = UNetSegmenter.from_pretrained("FOLDER/segmenter")"""


def sample_point(mask: np.ndarray, rng: random.Random, *, positive: bool) -> Point:
    """A point at the centre of a random pixel of a mask (H, W)."""
    rows, columns = np.nonzero(mask)
    index = rng.randrange(len(rows))
    return Point(x=columns[index] + 0.5, y=rows[index] + 0.5, positive=positive)


def sample_points(masks: np.ndarray, index: int, rng: random.Random) -> list[Point]:
    """One to MAX_POINTS points on object `index` of masks (K, H, W); the last of several may be a negative one."""
    points = [sample_point(masks[index], rng, positive=True) for _ in range(rng.randint(1, MAX_POINTS))]
    others = masks.any(axis=0) & ~masks[index]
    if len(points) > 1 and rng.random() < NEGATIVE_PROBABILITY:
        is_on_object = others.any() and rng.random() < NEGATIVE_PROBABILITY
        points[-1] = sample_point(others if is_on_object else ~masks[index], rng, positive=False)
    return points


class PointPromptEncoder:
    """A CaptionEncoder that returns point heatmaps and the mask of the object that the points are on."""

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """Tensors (B, H, W) under POINT_KEYS; `uniforms` (B, 2) on [0, 1) choose the object and the points."""
        heatmaps, target_masks = [], []
        for sample, draws in zip(samples, uniforms, strict=True):
            rng, masks = random.Random(repr(tuple(draws))), sample.masks
            index = rng.choice([k for k, mask in enumerate(masks) if mask.any()])
            heatmaps.append(make_point_heatmap(sample_points(masks, index, rng), masks.shape[-1]))
            target_masks.append(masks[index].astype(np.float32))
        tensors = (torch.from_numpy(np.stack(heatmaps)), torch.from_numpy(np.stack(target_masks)))
        return dict(zip(POINT_KEYS, tensors, strict=True))


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two masks, bool (B, H, W): (B,)."""
    return (a & b).sum(dim=(1, 2)) / (a | b).sum(dim=(1, 2)).clamp_min(1)


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice coefficient of probabilities and masks (B, H, W): (B,). Source: V-Net (arXiv 1606.04797), Sec. 3."""
    both = 2 * (probabilities * masks).sum(dim=(1, 2)) + 1
    return 1 - both / (probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)


class SegmenterTask(Task):
    """Trains a UNet2DModel on cross-entropy and Dice loss.

    `validation_batch` holds images, point heatmaps and masks for the sample grid and the validation metrics; its images
    are rendered ones. With `objective.vae`, a share of the images that are trained on is reconstructed by it.
    """

    def __init__(
        self,
        model: SegmenterModelConfig,
        objective: SegmenterObjectiveConfig | None = None,
        *,
        size_px: int,
        validation_batch: Batch,
    ) -> None:
        super().__init__()
        self.objective = objective or SegmenterObjectiveConfig()
        self.frozen_modules: tuple[Any, ...] = ()  # a tuple is not registered
        if self.objective.vae is not None:
            vae = load_autoencoder(self.objective.vae).requires_grad_(False)
            self.frozen_modules = (vae.float(), fold_to_conv(vae))
            side = size_px // get_scale_factor(vae.config)
            self.latent_shape = (vae.config.latent_channels, side, side)
        levels = len(model.block_out_channels)
        self.unet = UNet2DModel(
            sample_size=size_px // model.block_px,
            in_channels=NUM_INPUTS * model.block_px**2,
            out_channels=model.block_px**2,
            block_out_channels=model.block_out_channels,
            layers_per_block=model.layers_per_block,
            norm_num_groups=model.norm_num_groups,
            add_attention=False,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
        )
        if model.start_from is not None:
            load_weights(self.unet, model.start_from)
        self.validation_batch = validation_batch
        self.compute_losses = self._compute_losses

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        self.validation_batch = {name: tensor.to(device) for name, tensor in self.validation_batch.items()}
        for module in self.frozen_modules:
            if module is not None:
                module.to(device)

    def compile_modules(self, mode: str) -> None:
        self.compute_losses = torch.compile(self._compute_losses, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        if not self.frozen_modules:
            return {}
        count, device = bucket.shards.global_batch_size, generator.device
        levels = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        latents = torch.randn(count, *self.latent_shape, generator=generator, device=device)
        draws = torch.rand(count, generator=generator, device=device)
        return {
            "latents": self.objective.latent_noise * levels * latents,
            "is_reconstructed": draws < self.objective.reconstructed_share,
        }

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        pixels = to_pixels(batch["images"])
        if self.frozen_modules:
            pixels = self._reconstruct(pixels, noise)
        return self.compute_losses(pixels, *(batch[key] for key in POINT_KEYS))

    @torch.no_grad()
    def _reconstruct(self, pixels: Tensor, noise: Batch) -> Tensor:
        """Pixels (B, 3, H, W), those of the chosen rows from noisy latents (B, C, H/f, W/f) of themselves."""
        (vae, convolution), rows = self.frozen_modules, noise["is_reconstructed"].nonzero().flatten()
        if not len(rows):
            return pixels
        chosen = pixels[rows]
        latents = vae.encode(chosen).latent_dist.mode() if convolution is None else convolution(chosen)
        return pixels.index_copy(0, rows, vae.decode(latents + noise["latents"][rows]).sample.clamp(-1, 1))

    def _compute_losses(self, pixels: Tensor, point_maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits = predict_mask_logits(self.unet, pixels, point_maps).float()
        entropy = F.binary_cross_entropy_with_logits(logits, masks)
        dice = dice_loss(logits.sigmoid(), masks).mean()
        with torch.no_grad():
            iou = intersection_over_union(logits > 0, masks > 0.5).mean()
        return {"loss": CROSS_ENTROPY_WEIGHT * entropy + dice, "cross_entropy": entropy, "dice_loss": dice, "iou": iou}

    def _predict_masks(self) -> Tensor:
        batch = self.validation_batch
        return predict_mask_logits(self.unet, to_pixels(batch["images"]), batch["point_maps"]) > 0

    def validate(self) -> dict[str, float]:
        iou = intersection_over_union(self._predict_masks(), self.validation_batch["masks"] > 0.5)
        return {"validation_iou": float(iou.mean()), "validation_iou_median": float(iou.median())}

    def sample_grid(self) -> np.ndarray:
        """Rows of images, each above a row in which everything outside the predicted mask is darkened."""
        images = self.validation_batch["images"][:32]
        masked = torch.where(self._predict_masks()[:32].unsqueeze(-1), images, images // 4)
        rows = [part for pair in zip(images.split(8), masked.split(8), strict=True) for part in pair]
        return tile_images(torch.cat(rows), columns=8)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write segmenter/, which `UNetSegmenter` loads."""
        save_module(self.unet, folder / SEGMENTER_FOLDER, dtype)
        return {"parameters": sum(weight.numel() for weight in self.parameters()), **self.validate()}


class SegmenterDefinition(ScratchDefinition[SegmenterRunConfig]):
    """The definition of task "segmenter"."""

    config_class = SegmenterRunConfig

    def make_task(
        self, config: SegmenterRunConfig, source: SampleSource, accelerator: Accelerator
    ) -> tuple[Task, CaptionEncoder]:
        seed, encoder = config.run.seed + VALIDATION_SEED_OFFSET, PointPromptEncoder()
        num_samples = min(NUM_VALIDATION_SAMPLES, 8 * config.run.batch_size)
        shards = BatchShards(global_batch_size=num_samples, accumulation_steps=1, num_processes=1, rank=0)
        schedule = make_image_schedule(source, shards, seed=seed)
        batch = MicroBatchDataset(schedule, seed=seed, caption_encoder=encoder)[0]
        task = SegmenterTask(config.model, config.objective, size_px=config.data.size_px, validation_batch=batch)
        return task, encoder

    def make_card_sections(self, config: SegmenterRunConfig, folder: Path) -> CardSections:
        return CardSections(description="A segmenter: points on an image to the mask of an object", usage=USAGE)
