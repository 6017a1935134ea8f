"""Any image-to-video pipeline moves only a region: outside, its latents are tied to the picture at every step.

For pipelines of diffusers that denoise video latents by flow matching, such as HunyuanVideo's; without training.
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

from dianjing.pipelines.media.image import check_image_size, resize_crop, to_rgb
from dianjing.pipelines.segmentation.base import Region, Segmenter, check_region
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

MAX_DISPLACEMENT = 0.15  # of the shorter side: how far from where it is a region may move


@contextmanager
def masked_steps(scheduler: Any, known_latents: Tensor, mask: Tensor, noise: Tensor) -> Iterator[None]:
    """Inside, every step of a flow-matching scheduler keeps to `still` where `free` is 0.

    still: latents (B, C, F, Y, X) of the picture standing still; free: (Y, X) on [0, 1]; noise: as still. After the
    step to sigma the latents are free x + (1 - free) ((1 - sigma) still + sigma noise).
    """
    step = scheduler.step

    def step_and_tie(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        is_tuple = isinstance(result, tuple)
        latents = result[0] if is_tuple else result.prev_sample
        frames, like = latents.shape[2], {"device": latents.device, "dtype": latents.dtype}
        sigma = scheduler.sigmas[scheduler.step_index].to(**like)
        # a pipeline that replaces the first frame itself steps without it
        there = (1 - sigma) * known_latents[:, :, -frames:].to(**like) + sigma * noise[:, :, -frames:].to(**like)
        latents = torch.lerp(there, latents, mask.to(**like))
        return (latents, *result[1:]) if is_tuple else type(result)(prev_sample=latents)

    scheduler.step = step_and_tie
    try:
        yield
    finally:
        del scheduler.step  # the class's own is behind it


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
    """What `pipe` makes of a picture, all but the regions standing still; settings are its own.

    pipe: a diffusers pipeline whose call takes image, prompt, height, width, num_frames and generator, with a flow
    matching scheduler and a video VAE. prompt: what happens; the regions' motions where it is left out. reach: how far
    a region may move, in shorter sides.

    Raises: ValueError for regions that do not fit the picture, and for a pipeline that cannot be tied.
    """
    if not hasattr(pipe.scheduler, "sigmas") or not hasattr(pipe, "vae"):
        raise ValueError(f"{type(pipe).__name__} has no flow-matching scheduler and VAE; its latents cannot be tied")
    if not regions:
        raise ValueError("no region is given; say what should move")
    check_image_size(*image.size)
    picture = to_rgb(image)
    for region in regions:
        check_region(region, size=picture.size)
    fitted, _ = resize_crop(picture, width=width, height=height)
    allowed = _make_motion_mask(
        picture, regions, segmenter or GrabCutSegmenter(), size=(width, height), max_displacement=max_displacement
    )

    still = encode_still_video(pipe.vae, fitted, num_frames=num_frames)
    rows, columns = still.shape[-2:]
    free = adaptive_avg_pool2d(torch.from_numpy(allowed).float()[None], (rows, columns))[0].to(still.device)
    noise = torch.randn(still.shape, generator=generator, dtype=torch.float32).to(still)
    said = prompt if prompt is not None else ", ".join(region.motion for region in regions)
    words = {} if "prompt_embeds" in kwargs else {"prompt": said}
    sizes = {"height": height, "width": width, "num_frames": num_frames, "generator": generator}
    with masked_steps(pipe.scheduler, still, free, noise):
        return pipe(image=fitted, **words, **sizes, **kwargs)


def _make_motion_mask(
    image: Image.Image,
    regions: Sequence[Region],
    segmenter: Segmenter,
    *,
    size: tuple[int, int],
    max_displacement: float,
) -> np.ndarray:
    """Where the regions are and may move to: bool (height, width)."""
    if any(region.mask is None for region in regions):
        segmenter.set_image(np.asarray(image))
    masks = [segmenter.predict(r.points) if r.mask is None else np.asarray(r.mask, bool) for r in regions]
    together = Image.fromarray(np.any(masks, axis=0).astype(np.uint8) * 255)
    fitted, _ = resize_crop(together, width=size[0], height=size[1])
    radius = round(max_displacement * min(size))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate((np.asarray(fitted) > 127).astype(np.uint8), disc) > 0


@torch.no_grad()
def encode_still_video(vae: Any, image: Image.Image, *, num_frames: int) -> Tensor:
    """Latents (1, C, F, Y, X) of num_frames frames of a picture, scaled as the pipelines scale theirs."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).to(vae.device, vae.dtype) / 127.5 - 1
    video = pixels[None, :, None].expand(-1, -1, num_frames, -1, -1)
    return vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
