"""A film from a picture and a click, as long as one likes: window after window, each from the frame before it ends.

What moves is always taken from the picture itself, however long ago it was, so that it does not blur from window to
window. B batch, R regions, F frames; latents are B C F Y X, pixels B C H W from -1 to 1.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.dit import Conditioning, DiT, MotionControl
from dianjing.dit.motion.control import FLOW_GRID, EncodeFn, MotionConditioner
from dianjing.dit.motion.warp import MotionTrack, Warp
from dianjing.pipelines.prompt_embeds import PromptEmbeds
from dianjing.pipelines.sampling import pixels_to_uint8, precompute_conditioning

STRENGTH_BACKOFF = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)  # shares of a strength
MAX_BORDER_GROWTH = 0.65  # pixels on the border, of the root of all: what a disc has that lost a tenth of its width
MIN_COVERED_FRACTION = 0.1  # of what a region covered at first


def precompute_warp(
    conditioner: MotionConditioner,
    motion_control: MotionControl,
    pixels: Tensor,
    masks: Tensor,
    *,
    num_frames: int,
    window_size: int,
    encode: EncodeFn,
) -> tuple[Warp, Tensor] | None:
    """The picture on click.first_frame, moved as is asked from its masks (B, R, H, W) on, for a whole film: in latents,
    and as levels uint8 (B, F, 3, H, W). None for a model that moves no pictures.
    """
    if conditioner.flow_field is None:
        return None
    path, first = MotionTrack.from_masks(masks, grid_size=FLOW_GRID), motion_control.first_frame
    frames, covered = [first.unsqueeze(1)], [_make_control_at_frame(motion_control, path, first).masks.unsqueeze(1)]
    levels, done = [pixels_to_uint8(pixels.unsqueeze(1))], 1
    while done < num_frames:
        length = min(window_size, num_frames - done + 1)
        now = _make_control_at_frame(motion_control, path, frames[-1][:, -1])
        moving, shown = conditioner.with_warp(now, pixels, path, num_frames=length, encode=encode)
        path, _ = conditioner.advance(now, path, num_frames=length)
        assert moving.warp is not None
        frames.append(moving.warp.frames[:, 1:])
        covered.append(moving.warp.coverage[:, 1:])
        levels.append(pixels_to_uint8(shown[:, 1:]))
        done += length - 1
    return Warp(torch.cat(frames, dim=1), torch.cat(covered, dim=1)), torch.cat(levels, dim=1)


def get_window_control(
    motion_control: MotionControl, warp: Warp | None, window: slice, first_frame: Tensor
) -> MotionControl:
    """What a click asks for in some frames of a film, of which first_frame (B, C, Y, X) is the first."""
    first_frame = first_frame.to(motion_control.first_frame.dtype)
    if warp is None:
        return replace(motion_control, first_frame=first_frame)
    frames, covered = warp.frames[:, window], warp.coverage[:, window]
    frames = torch.cat([first_frame.unsqueeze(1), frames[:, 1:]], dim=1)
    return replace(motion_control, first_frame=first_frame, masks=covered[:, 0], warp=Warp(frames, covered))


def limit_strength(
    conditioner: MotionConditioner, motion_control: MotionControl, masks: Tensor, *, num_frames: int, window_size: int
) -> MotionControl:
    """The same click with strengths so low that what moves stays in the picture for num_frames."""
    best = torch.zeros_like(motion_control.strengths)
    for share in STRENGTH_BACKOFF:
        slow = replace(motion_control, strengths=motion_control.strengths * share)
        fits = _stays_in_frame(conditioner, slow, masks, num_frames=num_frames, window_size=window_size)
        best = torch.where(fits & (best == 0), share, best)
        if (best > 0).all():
            break
    return replace(motion_control, strengths=motion_control.strengths * best.clamp_min(STRENGTH_BACKOFF[-1]))


def _stays_in_frame(
    conditioner: MotionConditioner, motion_control: MotionControl, masks: Tensor, *, num_frames: int, window_size: int
) -> Tensor:
    """Whether each region does, (B, R)."""
    path, at = MotionTrack.from_masks(masks, grid_size=FLOW_GRID), 0
    most, least = _measure_border_ratio(masks) + MAX_BORDER_GROWTH, MIN_COVERED_FRACTION * masks.sum(dim=(-2, -1))
    fits = torch.ones_like(motion_control.strengths, dtype=torch.bool)
    while at < num_frames - 1 and fits.any():
        length = min(window_size, num_frames - at)
        path, covered = conditioner.advance(
            _make_control_at_frame(motion_control, path, motion_control.first_frame), path, num_frames=length
        )
        inside = (_measure_border_ratio(covered) <= most.unsqueeze(1)) & (
            covered.sum(dim=(-2, -1)) >= least.unsqueeze(1)
        )
        fits &= inside.all(dim=1) | ~motion_control.phrase_mask.any(dim=-1)
        at += length - 1
    return fits


def _measure_border_ratio(coverage: Tensor) -> Tensor:
    """(..., H, W) -> (...)"""
    inner = coverage[..., 1:-1, 1:-1].sum(dim=(-2, -1))
    whole = coverage.sum(dim=(-2, -1))
    return (whole - inner) / whole.clamp_min(1).sqrt()


def _make_control_at_frame(motion_control: MotionControl, track: MotionTrack, first_frame: Tensor) -> MotionControl:
    """A click on a later frame."""
    dtype = motion_control.first_frame.dtype
    masks = adaptive_avg_pool2d(track.coverage, (first_frame.shape[-2], first_frame.shape[-1]))
    return replace(motion_control, first_frame=first_frame.to(dtype), masks=masks.to(dtype))


@dataclass(frozen=True, kw_only=True)
class MotionRequest:
    """Pictures (B, 3, H, W), masks of regions in them (B, R, H, W), and what these are asked to do."""

    motion_control: MotionControl
    pixels: Tensor
    masks: Tensor

    @classmethod
    def from_null_control(cls, motion_control: MotionControl, pixels: Tensor) -> "MotionRequest":
        """A click that asks nothing."""
        return cls(
            motion_control=motion_control,
            pixels=pixels,
            masks=pixels.new_zeros(*motion_control.masks.shape[:2], *pixels.shape[-2:]),
        )


def precompute_video_conditioning(
    transformer: DiT,
    timesteps: Tensor,
    embeds: PromptEmbeds,
    *,
    guided: bool,
    motion_control: MotionControl | None,
    **size_kwargs: Any,
) -> Conditioning:
    """As `look_ahead`, for clips; where guided, the negative half sees the same picture and is asked nothing."""
    if motion_control is not None and guided:
        motion_control = make_cfg_batch(motion_control)
    return precompute_conditioning(
        transformer, timesteps, embeds, guided=guided, motion_control=motion_control, **size_kwargs
    )


def make_cfg_batch(motion_control: MotionControl) -> MotionControl:
    """2B rows: first those of the click without its phrases, then as it is."""
    both = motion_control.map_tensors(lambda tensor: torch.cat([tensor, tensor]))
    return replace(
        both, phrase_mask=torch.cat([torch.zeros_like(motion_control.phrase_mask), motion_control.phrase_mask])
    )
