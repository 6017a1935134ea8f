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

MAX_AUTOENCODER_ERROR = 0.3  # see measure_autoencoder_error: a model can show images below it
MEASURED_LATENT_PX = 8  # pixels along a latent at which the error is measured
FLAT_CONTRAST = 20.0  # in squared levels: added to the contrast of an image, which is 0 for a plain one


def can_show_image(pipe: Any, image: Image.Image) -> bool:
    """True for an image that a pipeline's model could have generated: its size, and the error of the autoencoder."""
    if any(side % pipe.size_multiple_px for side in image.size):
        return False
    if image.width * image.height > MAX_OWN_AREA * pipe.default_size_px**2:
        return False
    return measure_autoencoder_error(pipe.vae, image) <= MAX_AUTOENCODER_ERROR


@torch.no_grad()
def measure_autoencoder_error(vae: Any, image: Image.Image) -> float:
    """Mean absolute difference of an image from what its latents decode to, in units of its contrast.

    The contrast is the root mean square difference of neighbors, over both directions: errors at the edges of drawn
    objects are small beside these edges, and errors in the texture of a photograph are not. For latents of more than
    MEASURED_LATENT_PX both are averaged over blocks of pixels: what latents tell is compared, and not how much finer
    detail an image has than they hold.
    """
    pixels = frames_to_pixels(np.asarray(image)[None], device=vae.device, dtype=vae.dtype)
    decoded = pixels_to_uint8(decode_result(vae, encode_images(vae, pixels)))
    block_px = max(1, get_scale_factor(vae.config) // MEASURED_LATENT_PX)
    original = torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())
    original, decoded = (avg_pool2d(each.float(), block_px) for each in (original, decoded.cpu()))
    contrast = torch.stack([original.diff(dim=dim).square().mean() for dim in (-2, -1)]).sum()
    return float((decoded - original).abs().mean() / (contrast + FLAT_CONTRAST).sqrt())


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
