"""Segmenter by a small U-Net that is trained on the images of one model and shipped with it.

B batch, H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from dianjing.pipelines.segmentation.base import Point, check_points
from dianjing.pipelines.segmentation.guided_filter import apply_guided_filter

GUIDE_RADIUS = 5 / 64  # of the longer side of an image: in such windows its colors move the edges of a mask
GUIDE_REGULARIZATION = 1e-4  # of colors from 0 to 1, squared
POINT_SIGMA_PX = 2.0  # width of a point in the heatmap
NUM_INPUTS = 4  # red, green, blue, and the heatmap of points


def make_point_heatmap(points: Sequence[Point], side_px: int) -> np.ndarray:
    """Render points in px of an image of side_px as Gaussians, float32 (H, W): 1 at a point, -1 at a negative one."""
    centers = np.arange(side_px, dtype=np.float32) + 0.5
    heatmap = np.zeros((side_px, side_px), np.float32)
    for point in points:
        near_x, near_y = (
            np.exp(-((centers - position) ** 2) / (2 * POINT_SIGMA_PX**2)) for position in (point.x, point.y)
        )
        heatmap += (1 if point.positive else -1) * np.outer(near_y, near_x)
    return heatmap


def get_block_side(unet: UNet2DModel) -> int:
    """Return the side in px of the block that is one position of the network."""
    return math.isqrt(unet.config.in_channels // NUM_INPUTS)


def predict_mask_logits(unet: UNet2DModel, pixels: Tensor, point_heatmap: Tensor) -> Tensor:
    """Predict mask logits (B, H, W) of the marked objects.

    pixels: (B, 3, H, W) on [-1, 1]. point_heatmap: (B, H, W).
    """
    side = get_block_side(unet)
    blocks = F.pixel_unshuffle(torch.cat([pixels, point_heatmap.unsqueeze(1)], dim=1), side)
    return F.pixel_shuffle(unet(blocks, 0).sample, side).squeeze(1)


class UNetSegmenter:
    """`Segmenter` for images that one model generates."""

    def __init__(self, unet: UNet2DModel) -> None:
        self.unet = unet.float().eval()
        self.side_px = get_block_side(unet) * int(unet.config.sample_size)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "UNetSegmenter":
        """Load a folder saved by `UNet2DModel.save_pretrained`, safetensors only."""
        return cls(UNet2DModel.from_pretrained(folder, use_safetensors=True))

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""
        self.image, self.image_size = image, (image.shape[1], image.shape[0])
        small = cv2.resize(image, (self.side_px, self.side_px), interpolation=cv2.INTER_AREA)
        self.pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1

    @torch.no_grad()
    def predict_logits(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask logits of each point by itself, float32 (K, side_px, side_px); points are in these px."""
        heatmaps = np.stack([make_point_heatmap([point], self.side_px) for point in points])
        pixels = self.pixels.to(self.unet.device).expand(len(points), -1, -1, -1)
        return predict_mask_logits(self.unet, pixels, torch.from_numpy(heatmaps).to(self.unet.device)).cpu().numpy()

    @torch.no_grad()
    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points; its edges follow those of the whole image."""
        across, down = (self.side_px / side for side in self.image_size)
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        scaled = [Point(x=point.x * across, y=point.y * down, positive=point.positive) for point in points]
        heatmap = torch.from_numpy(make_point_heatmap(scaled, self.side_px))[None].to(self.unet.device)
        logits = predict_mask_logits(self.unet, self.pixels.to(self.unet.device), heatmap)[0].cpu().numpy()
        enlarged = cv2.resize(logits, self.image_size, interpolation=cv2.INTER_LINEAR)
        probability = 1 / (1 + np.exp(-enlarged.clip(-30, 30)))
        radius = max(1, round(GUIDE_RADIUS * max(self.image_size)))
        filtered = apply_guided_filter(self.image, probability, radius=radius, regularization=GUIDE_REGULARIZATION)
        return filtered > 0.5
