"""Refinement: whether a model generates the frames of an animated image, or its motion field moves the image itself.

H height, W width; images are uint8 (H, W, 3).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from dianjing.pipelines.media.crop import CropTransform
from dianjing.pipelines.segmentation.base import MAX_OWN_AREA, Point, Region
from dianjing.pipelines.vae import decode_result, encode_images, frames_to_pixels, pixels_to_uint8
from dianjing.weights.image_sizes import get_scale_factor

MAX_AUTOENCODER_ERROR = 12.0  # root mean square, in levels of 255: a model can show images below it
MEASURED_LATENT_PX = 8  # pixels along a latent at which the error is measured


def can_show_image(pipe: Any, image: Image.Image) -> bool:
    """True for an image that a pipeline's model could have generated: its size, and the error of the autoencoder."""
    if any(side % pipe.size_multiple_px for side in image.size):
        return False
    if image.width * image.height > MAX_OWN_AREA * pipe.default_size_px**2:
        return False
    return measure_autoencoder_error(pipe.vae, image) <= MAX_AUTOENCODER_ERROR


@torch.no_grad()
def measure_autoencoder_error(vae: Any, image: Image.Image) -> float:
    """Root mean square difference, in levels of 255, of an image from what its latents decode to.

    For latents of more than MEASURED_LATENT_PX the difference is averaged over blocks of pixels: what latents tell is
    compared, and not how much finer detail an image has than they hold.
    """
    pixels = frames_to_pixels(np.asarray(image)[None], device=vae.device, dtype=vae.dtype)
    decoded = pixels_to_uint8(decode_result(vae, encode_images(vae, pixels)))[0].permute(1, 2, 0).numpy()
    difference = torch.from_numpy(decoded.astype(np.float32) - np.asarray(image)).permute(2, 0, 1)
    block_px = max(1, get_scale_factor(vae.config) // MEASURED_LATENT_PX)
    return float(avg_pool2d(difference, block_px).square().mean().sqrt())


def crop_regions(regions: Sequence[Region], masks: np.ndarray, crop_transform: CropTransform) -> list[Region]:
    """Regions in px of the cropped image, with their masks (R, H, W) of it."""

    def move(x: float, y: float) -> tuple[float, float]:
        return crop_transform.transform_point(x, y)

    cropped = []
    for region, mask in zip(regions, masks, strict=True):
        path = None if region.path is None else [move(x, y) for x, y in region.path]
        anchor = region.anchor
        if anchor is not None:
            x, y = move(anchor.x, anchor.y)
            anchor = Point(x=x, y=y)
        selection: dict[str, Any] = {} if region.target == "image" else {"points": (), "mask": mask}
        cropped.append(replace(region, path=path, anchor=anchor, **selection))
    return cropped
