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

from dianjing.pipelines.own_segmenting import FOLD, FOLDER, click_map, logits
from dianjing.pipelines.segmenting import Point
from dianjing.train.data import Batch, Bucket
from dianjing.train.loop import Task
from dianjing.train.pictures import tile, to_pixels
from dianjing.train.sections import SegmenterModel
from dianjing.train.weights import load_weights, save_module

MOST_CLICKS = 3
CLICK_KEYS = ("clicks", "masks")
MASK_WEIGHT = 4.0  # of the cross-entropy beside Dice's error


def place_in(mask: np.ndarray, rng: random.Random, *, positive: bool) -> Point:
    """A click on any pixel of a mask."""
    rows, columns = np.nonzero(mask)
    at = rng.randrange(len(rows))
    return Point(x=columns[at] + 0.5, y=rows[at] + 0.5, positive=positive)


def clicks_on(masks: np.ndarray, index: int, rng: random.Random) -> list[Point]:
    """One to three clicks on object `index` of masks (K, H, W); of several, one may say what is not meant."""
    points = [place_in(masks[index], rng, positive=True) for _ in range(rng.randint(1, MOST_CLICKS))]
    others = masks.any(axis=0) & ~masks[index]
    if len(points) > 1 and rng.random() < 0.7:
        points[-1] = place_in(others if others.any() and rng.random() < 0.7 else ~masks[index], rng, positive=False)
    return points


class Clicked:
    """Samples with masks to maps of clicks and the mask that is meant."""

    def __call__(self, samples: Sequence[Any], draws: np.ndarray, *, kind: str) -> Batch:
        """draws (B, 2) are uniform on [0, 1)."""
        maps, meant = [], []
        for sample, draw in zip(samples, draws, strict=True):
            rng, masks = random.Random(repr(tuple(draw))), sample.masks
            index = rng.choice([k for k, mask in enumerate(masks) if mask.any()])
            maps.append(click_map(clicks_on(masks, index, rng), masks.shape[-1]))
            meant.append(masks[index].astype(np.float32))
        return {"clicks": torch.from_numpy(np.stack(maps)), "masks": torch.from_numpy(np.stack(meant))}


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Of masks bool (B, H, W): (B,)"""
    return (a & b).sum(dim=(1, 2)) / (a | b).sum(dim=(1, 2)).clamp_min(1)


def dice_error(shares: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice's coefficient of shares (B, H, W) from 0 to 1: (B,). Source: V-Net (arXiv 1606.04797), Sec. 3."""
    both = 2 * (shares * masks).sum(dim=(1, 2)) + 1
    return 1 - both / (shares.sum(dim=(1, 2)) + masks.sum(dim=(1, 2)) + 1)


class SegmenterTask(Task):
    """UNet2DModel on cross-entropy and Dice's error."""

    def __init__(self, model: SegmenterModel, *, size_px: int, probe: Batch) -> None:
        """probe: pictures, clicks and masks that are shown in the grid and measured."""
        super().__init__()
        levels = len(model.block_out_channels)
        self.network = UNet2DModel(
            sample_size=size_px // FOLD, in_channels=4 * FOLD**2, out_channels=FOLD**2,
            block_out_channels=model.block_out_channels, layers_per_block=model.layers_per_block,
            norm_num_groups=model.norm_num_groups, add_attention=False,
            down_block_types=("DownBlock2D",) * levels, up_block_types=("UpBlock2D",) * levels,
        )  # fmt: skip
        if model.start_from is not None:
            load_weights(self.network, model.start_from)
        self.probe = probe
        self.losses = self._losses

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.probe = {name: tensor.to(device) for name, tensor in self.probe.items()}

    def compile_parts(self, mode: str) -> None:
        self.losses = torch.compile(self._losses, mode=mode)

    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        return {}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        return self.losses(batch["images"], *(batch[key] for key in CLICK_KEYS))

    def _losses(self, images: Tensor, clicks: Tensor, masks: Tensor) -> dict[str, Tensor]:
        found = logits(self.network, to_pixels(images), clicks).float()
        entropy = F.binary_cross_entropy_with_logits(found, masks)
        dice = dice_error(found.sigmoid(), masks).mean()
        with torch.no_grad():
            iou = intersection_over_union(found > 0, masks > 0.5).mean()
        return {"loss": MASK_WEIGHT * entropy + dice, "cross_entropy": entropy, "dice": dice, "iou": iou}

    def _found(self) -> Tensor:
        return logits(self.network, to_pixels(self.probe["images"]), self.probe["clicks"]) > 0

    def measure(self) -> dict[str, float]:
        found = intersection_over_union(self._found(), self.probe["masks"] > 0.5)
        return {"held_out_iou": float(found.mean()), "held_out_iou_median": float(found.median())}

    def grid(self) -> np.ndarray:
        """Pictures, and below them what is selected."""
        shown = self.probe["images"][:32]
        selected = torch.where(self._found()[:32].unsqueeze(-1), shown, shown // 4)
        rows = [part for pair in zip(shown.split(8), selected.split(8), strict=True) for part in pair]
        return tile(torch.cat(rows), columns=8)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """segmenter/, as `OwnSegmenter` loads it."""
        save_module(self.network, folder / FOLDER, dtype)
        return {"parameters": sum(weight.numel() for weight in self.parameters()), **self.measure()}
