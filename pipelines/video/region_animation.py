"""Region animation with any image-to-video pipeline: outside the regions, latents are replaced at every step.

Works without training on pipelines of diffusers that denoise video latents by flow matching, such as HunyuanVideo's.
B batch, F latent frames, H height, W width; latents are B C F Y X.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.crop import resize_crop
from dianjing.pipelines.media.image import check_image_size
from dianjing.pipelines.segmentation.base import Region, Segmenter, check_region
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.vae import encode_images

MAX_DISPLACEMENT = 0.15  # of the shorter side: how far a region may move


@contextmanager
def masked_steps(scheduler: Any, known_latents: Tensor, mask: Tensor, noise: Tensor) -> Iterator[None]:
    """Replace latents outside a mask by the noised known latents after every step of a flow-matching scheduler.

    known_latents: (B, C, F, Y, X) of the static image. mask: (Y, X) on [0, 1]. noise: like known_latents.
    After the step to sigma the latents are mask x + (1 - mask) ((1 - sigma) known + sigma noise).
    """
    step = scheduler.step

    def masked_step(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        is_tuple = isinstance(result, tuple)
        latents = result[0] if is_tuple else result.prev_sample
        frames, like = latents.shape[2], {"device": latents.device, "dtype": latents.dtype}
        sigma = scheduler.sigmas[scheduler.step_index].to(**like)
        # a pipeline that replaces the first frame itself steps without it
        known = (1 - sigma) * known_latents[:, :, -frames:].to(**like) + sigma * noise[:, :, -frames:].to(**like)
        latents = torch.lerp(known, latents, mask.to(**like))
        return (latents, *result[1:]) if is_tuple else type(result)(prev_sample=latents)

    scheduler.step = masked_step
    try:
        yield
    finally:
        del scheduler.step  # uncovers the method of the class


def animate_regions(
    pipe: Any,
    image: Image.Image,
    regions: Sequence[Region],
    *,
    prompt: str | None = None,
    height: int,
    width: int,
    num_frames: int,
    generator: torch.Generator | None = None,
    segmenter: Segmenter | None = None,
    max_displacement: float = MAX_DISPLACEMENT,
    **kwargs: Any,
) -> Any:
    """Generate a video with `pipe` in which only the regions move, and return the pipeline's own output.

    pipe: a diffusers pipeline whose call takes image, prompt, height, width, num_frames and generator, with a flow
    matching scheduler and a video VAE. prompt: the regions' motions by default. max_displacement: how far a region may
    move, in shorter sides. kwargs: further arguments of the pipeline's call.

    Raises: DianjingError for regions that do not fit the image, and for a pipeline that cannot be masked.
    """
    if not hasattr(pipe.scheduler, "sigmas") or not hasattr(pipe, "vae"):
        raise DianjingError("pipeline_not_maskable", pipeline=type(pipe).__name__)
    if not regions:
        raise DianjingError("regions_missing")
    check_image_size(*image.size)
    image = to_rgb(image)
    for region in regions:
        check_region(region, size=image.size)
    fitted, _ = resize_crop(image, width=width, height=height)
    motion_mask = _make_motion_mask(
        image, regions, segmenter or GrabCutSegmenter(), size=(width, height), max_displacement=max_displacement
    )

    known_latents = encode_still_video(pipe.vae, fitted, num_frames=num_frames)
    rows, columns = known_latents.shape[-2:]
    mask = adaptive_avg_pool2d(torch.from_numpy(motion_mask).float()[None], (rows, columns))[0].to(known_latents.device)
    noise = torch.randn(known_latents.shape, generator=generator, dtype=torch.float32).to(known_latents)
    text = prompt if prompt is not None else ", ".join(region.motion for region in regions)
    prompt_kwargs = {} if "prompt_embeds" in kwargs else {"prompt": text}
    size_kwargs = {"height": height, "width": width, "num_frames": num_frames, "generator": generator}
    with masked_steps(pipe.scheduler, known_latents, mask, noise):
        return pipe(image=fitted, **prompt_kwargs, **size_kwargs, **kwargs)


def _make_motion_mask(
    image: Image.Image,
    regions: Sequence[Region],
    segmenter: Segmenter,
    *,
    size: tuple[int, int],
    max_displacement: float,
) -> np.ndarray:
    """Mask, bool (height, width), of the regions and of everywhere they may move to."""
    if any(region.mask is None for region in regions):
        segmenter.set_image(np.asarray(image))
    masks = [segmenter.predict(region.points) if region.mask is None else region.mask for region in regions]
    union = Image.fromarray(np.any(masks, axis=0).astype(np.uint8) * 255)
    fitted, _ = resize_crop(union, width=size[0], height=size[1])
    radius = round(max_displacement * min(size))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate((np.asarray(fitted) > 127).astype(np.uint8), disc) > 0


def encode_still_video(vae: Any, image: Image.Image, *, num_frames: int) -> Tensor:
    """Encode an image repeated for num_frames frames to scaled latents (1, C, F, Y, X)."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).to(vae.device, vae.dtype) / 127.5 - 1
    video = pixels[None, :, None].expand(-1, -1, num_frames, -1, -1)
    return encode_images(vae, video)
