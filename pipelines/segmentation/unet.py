"""A click to a mask by a small network that knows the pictures of one model, and comes with it.

B batch, P clicks, H height, W width; pictures are uint8 (H, W, 3), masks bool (H, W).
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from dianjing.pipelines.segmentation.base import Point, check_points

SEGMENTER_FOLDER = "segmenter"  # of a model's
POINT_SIGMA_PX = 2.0  # of a click on its map
PIXEL_UNSHUFFLE = 2  # pixels along a side that are one place of the network


def make_point_heatmap(points: Sequence[Point], side_px: int) -> np.ndarray:
    """Clicks in pixels of a picture of side_px, as float32 (H, W): 1 where one is, -1 where a negative one is."""
    middles = np.arange(side_px, dtype=np.float32) + 0.5
    found = np.zeros((side_px, side_px), np.float32)
    for point in points:
        near_x, near_y = (np.exp(-((middles - at) ** 2) / (2 * POINT_SIGMA_PX**2)) for at in (point.x, point.y))
        found += (1 if point.positive else -1) * np.outer(near_y, near_x)
    return found


def predict_mask_logits(unet: UNet2DModel, pixels: Tensor, point_heatmap: Tensor) -> Tensor:
    """Of the clicked object, at every pixel: (B, H, W); pixels (B, 3, H, W) from -1 to 1, clicks (B, H, W)."""
    shown = F.pixel_unshuffle(torch.cat([pixels, point_heatmap.unsqueeze(1)], dim=1), PIXEL_UNSHUFFLE)
    return F.pixel_shuffle(unet(shown, 0).sample, PIXEL_UNSHUFFLE).squeeze(1)


class UNetSegmenter:
    """A `Segmenter` for the pictures that a model draws; of others it knows nothing."""

    def __init__(self, unet: UNet2DModel) -> None:
        self.unet = unet.float().eval()
        self.side_px = PIXEL_UNSHUFFLE * int(unet.config.sample_size)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "UNetSegmenter":
        return cls(UNet2DModel.from_pretrained(folder, use_safetensors=True))

    def set_image(self, image: np.ndarray) -> None:
        self.image_size = (image.shape[1], image.shape[0])
        small = cv2.resize(image, (self.side_px, self.side_px), interpolation=cv2.INTER_AREA)
        self.pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1

    @torch.no_grad()
    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """bool (H, W)"""
        across, down = (self.side_px / side for side in self.image_size)
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        scaled = [Point(x=point.x * across, y=point.y * down, positive=point.positive) for point in points]
        clicks = torch.from_numpy(make_point_heatmap(scaled, self.side_px))[None].to(self.unet.device)
        found = predict_mask_logits(self.unet, self.pixels.to(self.unet.device), clicks)[0].cpu().numpy()
        return cv2.resize(found, self.image_size, interpolation=cv2.INTER_LINEAR) > 0
