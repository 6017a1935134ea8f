"""Time-to-Move: warped frames guide a video pipeline of diffusers by its noised latents, without training.

The pipeline's scheduler is steered, not its loop: it begins at a later step, from the latents of these frames noised to
that step, and after every step puts noised latents back inside masks. B batch, F frames, H height, W width; latents
are B C F Y X. Source: Time-to-Move (arXiv 2511.08633).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, max_pool2d

from dianjing.errors import DianjingError
from dianjing.pipelines.validation import check_number

# the authors' values for Wan: 3 and 7 of 50 steps
DEFAULT_T_WEAK = 0.94
DEFAULT_T_STRONG = 0.86


@dataclass(frozen=True, kw_only=True)
class PublishedStep:
    """One step of a published model's run.

    index: from 0 to num_steps - 1. predicted_x0: the latents (B, C, F, Y, X) that the step predicts for the end; None
    for a scheduler that does not match flows.
    """

    index: int
    num_steps: int
    predicted_x0: Tensor | None


StepListener = Callable[[PublishedStep], None]


@dataclass(frozen=True, kw_only=True)
class MotionGuide:
    """Warped frames that say what moves, and where to.

    frames: uint8 (F, H, W, 3) of the size and length of the video; the first is the still image. masks: (F, H, W), bool
    or on [0, 1], of what moves in each frame. t_weak, t_strong: the share of the denoising steps that is left when the
    video begins from the noised frames, and when what moves is released from it. strict_background: what is outside of
    the masks of all frames stays as in the still image; otherwise it is free from t_weak on.
    Raises: DianjingError for arrays that do not fit each other, and for clocks in the wrong order.
    """

    frames: np.ndarray
    masks: np.ndarray
    t_weak: float = DEFAULT_T_WEAK
    t_strong: float = DEFAULT_T_STRONG
    strict_background: bool = True

    def __post_init__(self) -> None:
        check_number(self.t_weak, "t_weak", low=0, high=1)
        check_number(self.t_strong, "t_strong", low=0, high=1)
        if self.t_strong > self.t_weak or self.t_weak == 0:
            raise DianjingError("motion_clocks_in_wrong_order", t_weak=self.t_weak, t_strong=self.t_strong)
        has_frames = self.frames.dtype == np.uint8 and self.frames.ndim == 4 and self.frames.shape[-1] == 3
        if not has_frames or self.masks.shape != self.frames.shape[:3]:
            raise DianjingError("motion_guide_shapes", frames=str(self.frames.shape), masks=str(self.masks.shape))

    def get_steps(self, num_inference_steps: int) -> tuple[int, int]:
        """The first step that is computed, and the last one before which the warped frames are put back."""
        first = min(round((1 - self.t_weak) * num_inference_steps), num_inference_steps - 1)
        last = round((1 - self.t_strong) * num_inference_steps)
        return first, max(last, first + (self.t_strong < self.t_weak))

    def get_track(self) -> np.ndarray:
        """Mask, bool (H, W), of all that something covers in any frame."""
        return np.max(self.masks > 0, axis=0)


@dataclass(frozen=True, kw_only=True)
class LatentGuide:
    """A `MotionGuide` in latents.

    warped, still: latents (1, C, F, Y, X) of the warped frames and of the still image. noise: of the same shape and the
    same at every step. mask: of what moves, on [0, 1] (1, 1, F, Y, X). background: 1 where the still image is put back
    at every step, (1, 1, 1, Y, X). The warped frames are put back before the steps up to last_step, from first_step on.
    """

    warped: Tensor
    still: Tensor
    noise: Tensor
    mask: Tensor
    background: Tensor
    first_step: int
    last_step: int

    def put_back(self, latents: Tensor, *, step: int, sigma: Tensor) -> Tensor:
        """Put the noised warped frames and the noised still image into the latents (B, C, F, Y, X) before a step.

        A pipeline that replaces the first frame itself steps without it: the last F frames of the guide are used.
        """
        noise, mask = self._fit(self.noise, latents), self._fit(self.mask, latents)
        if step <= self.last_step:
            latents = torch.lerp(latents, torch.lerp(self._fit(self.warped, latents), noise, sigma), mask)
        still = torch.lerp(self._fit(self.still, latents), noise, sigma)
        return torch.lerp(latents, still, self.background.to(latents))

    def make_initial_latents(self, sigma: Tensor, *, image_fraction: float) -> Tensor:
        """The warped frames noised to the first step, less the part of the image's latents that the pipeline adds."""
        initial = torch.lerp(self.warped, self.noise, sigma.to(self.warped))
        return (initial - image_fraction * self.still[:, :, :1]) / (1 - image_fraction)

    @staticmethod
    def _fit(tensor: Tensor, latents: Tensor) -> Tensor:
        return tensor[:, :, -latents.shape[2] :].to(latents)


def pool_masks(masks: np.ndarray, *, temporal_factor: int, rows: int, columns: int) -> Tensor:
    """Pool masks (F, H, W) to latents (1, 1, F, Y, X): the maximum over a latent's frames, the mean over its pixels."""
    tensor = torch.from_numpy(np.asarray(masks, np.float32))
    groups = [tensor[:1], *tensor[1:].split(temporal_factor)]
    joined = torch.stack([group.amax(dim=0) for group in groups])
    return adaptive_avg_pool2d(joined[:, None], (rows, columns)).transpose(0, 1)[None]


def pool_background(track: np.ndarray, *, rows: int, columns: int) -> Tensor:
    """Pool a track, bool (H, W), to the latents (1, 1, 1, Y, X) that are not beside it: 1 there, else 0."""
    pooled = adaptive_max_pool2d(torch.from_numpy(track.astype(np.float32))[None], (rows, columns))
    return 1 - max_pool2d(pooled, kernel_size=3, stride=1, padding=1)[None, None]


def restore_background(frames: np.ndarray, still: np.ndarray, track: np.ndarray, *, margin_px: int) -> np.ndarray:
    """Give frames (F, H, W, 3) the pixels of the still image (H, W, 3), but for a margin about the track (H, W).

    The transition is from one to two margins off the track.
    """
    if not track.any():
        return np.broadcast_to(still, frames.shape).copy()
    distance = cv2.distanceTransform((~track).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weight = np.clip(distance / margin_px - 1, 0, 1)[..., None]
    mixed = frames + weight * (still.astype(np.float32) - frames)
    return np.where(weight == 1, still, mixed).astype(frames.dtype)


def is_flow_matching(scheduler: Any) -> bool:
    """True if latents at a step are (1 - sigma) x0 + sigma noise by the scheduler's own sigmas."""
    config = scheduler.config
    is_flow = config.get("prediction_type") == "flow_prediction" and config.get("use_flow_sigmas")
    return hasattr(scheduler, "sigmas") and bool(is_flow or "FlowMatch" in type(scheduler).__name__)


def get_sigma(scheduler: Any, step: int, *, num_inference_steps: int, has_linspace_sigmas: bool) -> Tensor:
    """The noise level before a step of the schedule that a pipeline sets."""
    schedule = deepcopy(scheduler)
    if has_linspace_sigmas:
        schedule.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1])
    else:
        schedule.set_timesteps(num_inference_steps)
    return schedule.sigmas[step]


@contextmanager
def steer_scheduler(scheduler: Any, guide: LatentGuide) -> Iterator[None]:
    """Begin the schedules of a flow-matching scheduler at the guide's first step, and put its latents back after steps.

    A corrector would compute the latents once more, from those before the last step; where latents were put back it is
    off. Source: UniPC (arXiv 2302.04867).
    """
    first, set_timesteps, step = guide.first_step, scheduler.set_timesteps, scheduler.step
    has_background = bool(guide.background.any())
    disabled = getattr(scheduler, "disable_corrector", None)

    @wraps(set_timesteps)  # pipelines read its signature
    def set_later_timesteps(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[first:], scheduler.sigmas[first:]
        if disabled is not None:
            last = len(scheduler.timesteps) if has_background else guide.last_step - first
            scheduler.disable_corrector = [*disabled, *range(last)]

    def guided_step(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        is_tuple = isinstance(result, tuple)
        latents = result[0] if is_tuple else result.prev_sample
        index = scheduler.step_index
        sigma = scheduler.sigmas[index].to(latents)
        latents = guide.put_back(latents, step=first + index, sigma=sigma)
        return (latents, *result[1:]) if is_tuple else type(result)(prev_sample=latents)

    with _replace_methods(scheduler, set_timesteps=set_later_timesteps, step=guided_step):
        try:
            yield
        finally:
            if disabled is not None:
                scheduler.disable_corrector = disabled


@contextmanager
def observe_steps(scheduler: Any, on_step: StepListener | None) -> Iterator[None]:
    """Call on_step after every step of a scheduler."""
    if on_step is None:
        yield
        return
    step, has_velocity = scheduler.step, is_flow_matching(scheduler)

    def observed_step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = step(model_output, timestep, sample, *args, **kwargs)
        index, predicted_x0 = scheduler.step_index - 1, None
        if has_velocity:  # x0 = x - sigma v
            predicted_x0 = sample.float() - scheduler.sigmas[index].to(sample.device) * model_output.float()
        on_step(PublishedStep(index=index, num_steps=len(scheduler.timesteps), predicted_x0=predicted_x0))
        return result

    with _replace_methods(scheduler, step=observed_step):
        yield


@contextmanager
def _replace_methods(scheduler: Any, **methods: Callable) -> Iterator[None]:
    """Replace methods of an object, and restore what it had before: its own, or those of its class."""
    own = {name: vars(scheduler)[name] for name in methods if name in vars(scheduler)}
    vars(scheduler).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(scheduler)[name]
        vars(scheduler).update(own)
