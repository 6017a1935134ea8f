"""The segmenter task: a click on a picture to a mask of what was clicked, from the exact masks of a world.

B batch, K objects; pictures are uint8 (B, H, W, 3), masks and maps of clicks (B, H, W).
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.unet import (
    PIXEL_UNSHUFFLE,
    SEGMENTER_FOLDER,
    make_point_heatmap,
    predict_mask_logits,
)
from dianjing.train.config.segmenter import SegmenterModelConfig
from dianjing.train.data.images import tile_images, to_pixels
from dianjing.train.data.samples import Batch
from dianjing.train.data.schedule import Bucket
from dianjing.train.export import save_module
from dianjing.train.tasks.base import Task

MAX_CLICKS = 3
POINT_KEYS = ("point_maps", "masks")
CROSS_ENTROPY_WEIGHT = 4.0  # of the cross-entropy beside Dice's error


def sample_point(mask: np.ndarray, rng: random.Random, *, positive: bool) -> Point:
    """A click on any pixel of a mask."""
    rows, columns = np.nonzero(mask)
    at = rng.randrange(len(rows))
    return Point(x=columns[at] + 0.5, y=rows[at] + 0.5, positive=positive)


def sample_points(masks: np.ndarray, index: int, rng: random.Random) -> list[Point]:
    """One to three clicks on object `index` of masks (K, H, W); of several, one may say what is not meant."""
    points = [sample_point(masks[index], rng, positive=True) for _ in range(rng.randint(1, MAX_CLICKS))]
    others = masks.any(axis=0) & ~masks[index]
    if len(points) > 1 and rng.random() < 0.7:
        points[-1] = sample_point(others if others.any() and rng.random() < 0.7 else ~masks[index], rng, positive=False)
    return points


class PointPromptEncoder:
    """Samples with masks to maps of clicks and the mask that is meant."""

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """draws (B, 2) are uniform on [0, 1)."""
        maps, meant = [], []
        for sample, draw in zip(samples, uniforms, strict=True):
            rng, masks = random.Random(repr(tuple(draw))), sample.masks
            index = rng.choice([k for k, mask in enumerate(masks) if mask.any()])
            maps.append(make_point_heatmap(sample_points(masks, index, rng), masks.shape[-1]))
            meant.append(masks[index].astype(np.float32))
        return {"point_maps": torch.from_numpy(np.stack(maps)), "masks": torch.from_numpy(np.stack(meant))}


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Of masks bool (B, H, W): (B,)"""
    return (a & b).sum(dim=(1, 2)) / (a | b).sum(dim=(1, 2)).clamp_min(1)


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice's coefficient of shares (B, H, W) from 0 to 1: (B,). Source: V-Net (arXiv 1606.04797), Sec. 3."""
    both = 2 * (probabilities * masks).sum(dim=(1, 2)) + 1
    return 1 - both / (probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)


class SegmenterTask(Task):
    """UNet2DModel on cross-entropy and Dice's error."""

    def __init__(self, model: SegmenterModelConfig, *, size_px: int, validation_batch: Batch) -> None:
        """probe: pictures, clicks and masks that are shown in the grid and measured."""
        super().__init__()
        levels = len(model.block_out_channels)
        self.unet = UNet2DModel(
            sample_size=size_px // PIXEL_UNSHUFFLE,
            in_channels=4 * PIXEL_UNSHUFFLE**2,
            out_channels=PIXEL_UNSHUFFLE**2,
            block_out_channels=model.block_out_channels,
            layers_per_block=model.layers_per_block,
            norm_num_groups=model.norm_num_groups,
            add_attention=False,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
        )
        self.validation_batch = validation_batch
        self.compute_losses = self._compute_losses

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        self.validation_batch = {name: tensor.to(device) for name, tensor in self.validation_batch.items()}

    def compile_modules(self, mode: str) -> None:
        self.compute_losses = torch.compile(self._compute_losses, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        return {}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        return self.compute_losses(batch["images"], *(batch[key] for key in POINT_KEYS))

    def _compute_losses(self, images: Tensor, point_maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
        found = predict_mask_logits(self.unet, to_pixels(images), point_maps).float()
        entropy = F.binary_cross_entropy_with_logits(found, masks)
        dice = dice_loss(found.sigmoid(), masks).mean()
        with torch.no_grad():
            iou = intersection_over_union(found > 0, masks > 0.5).mean()
        return {"loss": CROSS_ENTROPY_WEIGHT * entropy + dice, "cross_entropy": entropy, "dice_loss": dice, "iou": iou}

    def _predict_masks(self) -> Tensor:
        return (
            predict_mask_logits(
                self.unet, to_pixels(self.validation_batch["images"]), self.validation_batch["point_maps"]
            )
            > 0
        )

    def validate(self) -> dict[str, float]:
        found = intersection_over_union(self._predict_masks(), self.validation_batch["masks"] > 0.5)
        return {"validation_iou": float(found.mean()), "validation_iou_median": float(found.median())}

    def sample_grid(self) -> np.ndarray:
        """Pictures, and below them what is selected."""
        shown = self.validation_batch["images"][:32]
        selected = torch.where(self._predict_masks()[:32].unsqueeze(-1), shown, shown // 4)
        rows = [part for pair in zip(shown.split(8), selected.split(8), strict=True) for part in pair]
        return tile_images(torch.cat(rows), columns=8)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """segmenter/, as `OwnSegmenter` loads it."""
        save_module(self.unet, folder / SEGMENTER_FOLDER, dtype)
        return {"parameters": sum(weight.numel() for weight in self.parameters()), **self.validate()}
