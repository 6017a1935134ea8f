"""Denoiser of videos: as many frames together as the model was trained on, in windows that move from step to step.

B batch, F frames; latents are B C F Y X.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.dit import Conditioning, DiT, MotionControl
from dianjing.pipelines.denoiser import SamplingStep, precompute_conditioning, predict_model_output
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.video.windows import get_max_window_size, make_joint_windows


def make_cfg_batch(motion_control: MotionControl) -> MotionControl:
    """Double the batch for classifier-free guidance: first with the phrases masked, then unchanged."""
    doubled = motion_control.map_tensors(lambda tensor: torch.cat([tensor, tensor]))
    masks = torch.cat([torch.zeros_like(motion_control.phrase_mask), motion_control.phrase_mask])
    return replace(doubled, phrase_mask=masks)


@dataclass(frozen=True, kw_only=True)
class VideoDenoiser:
    """`Denoiser` of num_frames frames by windows of about window_size.

    With guidance, the unconditional half keeps the first frame and its motion phrases are masked. get_control: motion
    control of a window, if it is not the same for all.
    """

    transformer: DiT
    latent_size: tuple[int, int]
    image_meta_size: tuple[int, ...]
    num_frames: int
    window_size: int
    motion_control: MotionControl | None
    get_control: Callable[[slice], MotionControl] | None = None

    def precompute(self, timesteps: Tensor, embeds: PromptEmbeds, *, guided: bool) -> Conditioning:
        motion_control = self.motion_control if self.num_frames > 1 else None
        if motion_control is not None and guided:
            motion_control = make_cfg_batch(motion_control)
        return precompute_conditioning(
            self.transformer,
            timesteps,
            embeds,
            guided=guided,
            latent_size=self.latent_size,
            image_meta_size=self.image_meta_size,
            num_frames=min(self.num_frames, get_max_window_size(self.window_size)),
            motion_control=motion_control,
        )

    def predict(self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning) -> tuple[Tensor, ...]:
        windows = make_joint_windows(self.num_frames, window_size=self.window_size, step=step.index)
        guided = conditioning.batch_size > len(step.latents)
        predictions = [
            predict_model_output(
                self.transformer,
                step.latents[:, :, window],
                self._get_window_conditioning(conditioning, window, guided=guided),
            )
            for window in windows
        ]
        return tuple(torch.cat(parts, dim=2) for parts in zip(*predictions, strict=True))

    def _get_window_conditioning(self, conditioning: Conditioning, window: slice, *, guided: bool) -> Conditioning:
        conditioner = self.transformer.motion_conditioner
        if self.get_control is None or conditioning.video is None or conditioner is None:
            return conditioning.truncate(window.stop - window.start)
        control = self.get_control(window)
        control = make_cfg_batch(control) if guided else control
        video = conditioning.video.with_control(conditioner, control)
        return replace(conditioning, video=video)
