"""Sampling that starts from an image: the strength selects the timesteps, and a mask ties the rest to the image.

B batch, N images that were given; latents are B C Y X, scaled, pixels N 3 H W; masks are B 1 Y X or N 1 H W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dianjing.errors import DianjingError
from dianjing.pipelines.vae import encode_images

Box = tuple[int, int, int, int]  # left, top, right, bottom in px


@dataclass(frozen=True, kw_only=True)
class ImageStart:
    """Latents (B, C, Y, X) of images, the strength from 0 to 1, and the mask (B, 1, Y, X), 1 where they may change.

    One deviation from diffusers: at strength 1 nothing is left of the image, which the first noise level of most
    schedules would not ensure.
    """

    latents: Tensor
    strength: float
    mask: Tensor | None = None

    def count_steps(self, num_inference_steps: int) -> int:
        """The number of steps that are left at this strength, rounded down as in diffusers; 0 at strength 0."""
        return min(int(num_inference_steps * self.strength), num_inference_steps)

    def select_timesteps(self, scheduler: Any, num_inference_steps: int) -> Tensor:
        """Set a scheduler to the first timestep of this strength, and return those that are left (S,)."""
        num_steps = self.count_steps(num_inference_steps)
        if num_steps < num_inference_steps and hasattr(scheduler, "plms_timesteps"):
            restart_plms(scheduler, num_steps)
            return scheduler.timesteps
        first = (num_inference_steps - num_steps) * getattr(scheduler, "order", 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler.timesteps[first:] if num_steps else scheduler.timesteps[:0]

    def make_latents(self, scheduler: Any, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Make the latents to begin with: those of the images with the noise of the first of timesteps (S,)."""
        if self.strength == 1:
            return noise * getattr(scheduler, "init_noise_sigma", 1.0)
        latents = self.latents.to(noise)
        return add_scheduler_noise(scheduler, latents, noise, timesteps[0]) if len(timesteps) else latents.clone()

    def keep_unmasked(self, scheduler: Any, latents: Tensor, noise: Tensor, next_timesteps: Tensor) -> Tensor:
        """After a step, put the images back outside the mask, with the noise of the next timestep if there is one.

        Source: RePaint (arXiv 2201.09865), Eq. 8.
        """
        if self.mask is None:
            return latents
        known = self.latents.to(latents)
        if len(next_timesteps):
            known = add_scheduler_noise(scheduler, known, noise, next_timesteps[0])
        return torch.lerp(known, latents, self.mask.to(latents))


def restart_plms(scheduler: Any, num_steps: int) -> None:
    """Let `PNDMScheduler` begin with the last of its steps: it takes the second timestep twice, wherever it begins."""
    timesteps = scheduler.timesteps.unique()[:num_steps]  # ascending
    scheduler.plms_timesteps = torch.cat([timesteps[:-1], timesteps[-2:-1], timesteps[-1:]]).flip(0).cpu().numpy()
    scheduler.timesteps = torch.from_numpy(scheduler.plms_timesteps.copy()).to(timesteps.device)


def add_scheduler_noise(scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Add the noise of one timestep () to latents, as a scheduler does for a diffusion or for flow matching."""
    timesteps = timestep.expand(len(latents))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(latents, timesteps, noise)
    return scheduler.add_noise(latents, noise, timesteps)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Images (N, 3, H, W) on [-1, 1] that a result is pasted into: where alpha (N, 1, H, W) is 0 they stay as they are.

    box: the part of the images that the result shows; it is scaled to it.
    """

    pixels: Tensor
    alpha: Tensor
    box: Box

    def paste(self, result: Tensor) -> Tensor:
        """Paste pixels (B, 3, h, w), about on [-1, 1], into the images: float32 (B, 3, H, W)."""
        left, top, right, bottom = self.box
        result, size = result.float(), (bottom - top, right - left)
        if tuple(result.shape[-2:]) != size:
            result = interpolate(result, size=size, mode="bicubic", antialias=True, align_corners=False)
        pixels, alpha = (repeat_rows(each.to(result), len(result)).clone() for each in (self.pixels, self.alpha))
        rows, columns = slice(top, bottom), slice(left, right)
        pixels[..., rows, columns] = pixels[..., rows, columns].lerp(result.clamp(-1, 1), alpha[..., rows, columns])
        return pixels


@dataclass(frozen=True, kw_only=True)
class StartImage:
    """Checked images that a call starts from: pixels (N, 3, H, W) on [-1, 1], or latents (N, C, Y, X), scaled.

    N is 1, the number of prompts, or that of the images to generate. mask: (N, 1, Y, X), 1 where they may change.
    overlay: what the result is pasted into.
    """

    pixels: Tensor | None = None
    latents: Tensor | None = None
    strength: float
    mask: Tensor | None = None
    overlay: Overlay | None = None

    def check(self, num_prompts: int, *, batch_size: int, scheduler: Any) -> None:
        """Raise DianjingError for a number of images or masks that does not fit, or a scheduler that cannot start."""
        if not hasattr(scheduler, "add_noise") and not hasattr(scheduler, "scale_noise"):
            raise DianjingError("scheduler_adds_no_noise", scheduler=type(scheduler).__name__)
        if self.strength < 1 and hasattr(scheduler, "plms_timesteps") and not scheduler.config.skip_prk_steps:
            raise DianjingError("scheduler_needs_first_steps", scheduler=type(scheduler).__name__)
        counts = {"image": self.latents if self.pixels is None else self.pixels, "mask_image": self.mask}
        for name, tensor in counts.items():
            if tensor is not None and len(tensor) not in (1, num_prompts, batch_size):
                raise DianjingError(
                    "start_image_count", name=name, count=len(tensor), num_prompts=num_prompts, batch_size=batch_size
                )

    def encode(self, vae: Any, noise: Tensor) -> ImageStart:
        """Encode the images for a batch of noise (B, C, Y, X), on its device."""
        if self.latents is not None:
            latents = self.latents.to(noise)
        else:
            assert self.pixels is not None
            latents = encode_images(vae, self.pixels.to(noise.device)).to(noise)
        mask = None if self.mask is None else repeat_rows(self.mask.to(noise), len(noise))
        return ImageStart(latents=repeat_rows(latents, len(noise)), strength=self.strength, mask=mask)

    def finish(self, result: Tensor) -> Tensor:
        """Finish decoded pixels (B, 3, h, w): with an overlay they are pasted into it."""
        return result if self.overlay is None else self.overlay.paste(result)


def repeat_rows(tensor: Tensor, batch_size: int) -> Tensor:
    """Repeat rows (N, ...) to (B, ...), those of a prompt side by side: a b -> a a b b."""
    return tensor.repeat_interleave(batch_size // len(tensor), dim=0)


def to_latent_mask(mask: Tensor, latent_size: Sequence[int]) -> Tensor:
    """Convert a mask of pixels (N, 1, H, W) to one of latents: a cell may change if any of its pixels may."""
    return torch.nn.functional.adaptive_max_pool2d(mask.float(), tuple(latent_size))
