"""Motion requests: images, regions in them and their motion, followed through a video of any length.

What moves is always warped from the first image, so that it does not blur from window to window.
B batch, R regions, F frames; latents are B C F Y X, pixels B C H W on [-1, 1].
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.dit import MotionControl
from dianjing.dit.motion.control import FLOW_GRID, EncodeFn, MotionConditioner
from dianjing.dit.motion.warp import MotionTrack, Warp
from dianjing.pipelines.vae import frames_to_pixels, pixels_to_uint8
from dianjing.pipelines.video.inpainting import inpaint
from dianjing.pipelines.video.windows import make_autoregressive_windows

STRENGTH_BACKOFF = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)  # factors, tried in this order
# maximum growth of border pixels / sqrt(area); 0.65 is a disc clipped by 10 % of its diameter
MAX_BORDER_GROWTH = 0.65
HOLE_MARGIN = 0.025  # of the image's side, around a mask: where an autoencoder shows traces of an object
MIN_COVERED_FRACTION = 0.1  # minimum of a region's area in the image, relative to the first frame


@dataclass(frozen=True, kw_only=True)
class WarpedVideo:
    """First frames warped through a video: `warp` in latents, `frames` uint8 (B, F, 3, H, W)."""

    warp: Warp
    frames: Tensor


@dataclass(frozen=True, kw_only=True)
class MotionRequest:
    """Motion control with what it was made of: pixels (B, 3, H, W) and full-size masks (B, R, H, W)."""

    motion_control: MotionControl
    pixels: Tensor
    masks: Tensor

    @classmethod
    def from_null_control(cls, motion_control: MotionControl, pixels: Tensor) -> "MotionRequest":
        """Make a request in which nothing is active."""
        masks = pixels.new_zeros(*motion_control.masks.shape[:2], *pixels.shape[-2:])
        return cls(motion_control=motion_control, pixels=pixels, masks=masks)

    def precompute_warp(
        self, conditioner: MotionConditioner, *, num_frames: int, window_size: int, encode: EncodeFn
    ) -> WarpedVideo | None:
        """Warp the first frame as requested through a whole video; None for a model without a flow field.

        encode: from pixels to latents.
        """
        if conditioner.flow_field is None:
            return None
        track, first_frame = self._start_track(), self.motion_control.first_frame
        background = self.inpaint_background()
        latents = [first_frame.unsqueeze(1)]
        coverages = [self._get_control_at(track, first_frame).masks.unsqueeze(1)]
        frames = [pixels_to_uint8(self.pixels.unsqueeze(1))]
        for window in make_autoregressive_windows(num_frames, window_size=window_size):
            length = window.stop - window.start
            control = self._get_control_at(track, latents[-1][:, -1])
            warped_control, warped = conditioner.with_warp(
                control, self.pixels, track, num_frames=length, encode=encode, background=background
            )
            track, _ = conditioner.advance(control, track, num_frames=length)
            assert warped_control.warp is not None
            latents.append(warped_control.warp.frames[:, 1:])
            coverages.append(warped_control.warp.coverage[:, 1:])
            frames.append(pixels_to_uint8(warped[:, 1:]))
        warp = Warp(torch.cat(latents, dim=1), torch.cat(coverages, dim=1))
        return WarpedVideo(warp=warp, frames=torch.cat(frames, dim=1))

    def inpaint_background(self) -> Tensor:
        """Inpaint each image (B, 3, H, W) where its active regions are, and in a margin around them."""
        active = self.motion_control.phrase_mask.any(dim=-1)[..., None, None]
        regions = (self.masks * active).amax(dim=1).cpu().numpy() > 0
        margin = 2 * round(HOLE_MARGIN * max(self.pixels.shape[-2:])) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin))
        holes = [cv2.dilate(region.astype(np.uint8), kernel) > 0 for region in regions]
        images = pixels_to_uint8(self.pixels).permute(0, 2, 3, 1).numpy()
        filled = np.stack([inpaint(image, hole) for image, hole in zip(images, holes, strict=True)])
        background = frames_to_pixels(filled, device=self.pixels.device, dtype=self.pixels.dtype)
        mask = torch.from_numpy(np.stack(holes)).unsqueeze(1).to(self.pixels.device)
        return torch.where(mask, background, self.pixels)

    def limit_strength(self, conditioner: MotionConditioner, *, num_frames: int, window_size: int) -> "MotionRequest":
        """Reduce each strength as far as needed for its region to stay in the image for num_frames."""
        control = self.motion_control
        best = torch.zeros_like(control.strengths)
        for factor in STRENGTH_BACKOFF:
            slower = replace(self, motion_control=replace(control, strengths=control.strengths * factor))
            stays = slower._stays_in_frame(conditioner, num_frames=num_frames, window_size=window_size)
            best = torch.where(stays & (best == 0), factor, best)
            if (best > 0).all():
                break
        strengths = control.strengths * best.clamp_min(STRENGTH_BACKOFF[-1])
        return replace(self, motion_control=replace(control, strengths=strengths))

    def _stays_in_frame(self, conditioner: MotionConditioner, *, num_frames: int, window_size: int) -> Tensor:
        """True for each region (B, R) that stays in the image, or is not active."""
        track, control = self._start_track(), self.motion_control
        max_ratio = _measure_border_ratio(self.masks) + MAX_BORDER_GROWTH
        min_area = MIN_COVERED_FRACTION * self.masks.sum(dim=(-2, -1))
        stays = torch.ones_like(control.strengths, dtype=torch.bool)
        for window in make_autoregressive_windows(num_frames, window_size=window_size):
            if not stays.any():
                break
            length = window.stop - window.start
            track, coverage = conditioner.advance(
                self._get_control_at(track, control.first_frame), track, num_frames=length
            )
            is_inside = _measure_border_ratio(coverage) <= max_ratio.unsqueeze(1)
            is_inside &= coverage.sum(dim=(-2, -1)) >= min_area.unsqueeze(1)
            stays &= is_inside.all(dim=1) | ~control.phrase_mask.any(dim=-1)
        return stays

    def _start_track(self) -> MotionTrack:
        return MotionTrack.from_masks(self.masks, grid_size=FLOW_GRID)

    def _get_control_at(self, track: MotionTrack, first_frame: Tensor) -> MotionControl:
        """Motion control on a later frame, with its latents (B, C, Y, X) and the masks where the track is."""
        dtype = self.motion_control.first_frame.dtype
        masks = adaptive_avg_pool2d(track.coverage, (first_frame.shape[-2], first_frame.shape[-1]))
        return replace(self.motion_control, first_frame=first_frame.to(dtype), masks=masks.to(dtype))


def get_window_control(
    motion_control: MotionControl, warp: Warp | None, window: slice, first_frame: Tensor
) -> MotionControl:
    """Motion control of a window of a video; first_frame (B, C, Y, X) are the latents of its first frame."""
    first_frame = first_frame.to(motion_control.first_frame.dtype)
    if warp is None:
        return replace(motion_control, first_frame=first_frame)
    frames, coverage = warp.frames[:, window], warp.coverage[:, window]
    frames = torch.cat([first_frame.unsqueeze(1), frames[:, 1:]], dim=1)
    return replace(motion_control, first_frame=first_frame, masks=coverage[:, 0], warp=Warp(frames, coverage))


def _measure_border_ratio(coverage: Tensor) -> Tensor:
    """Border pixels / sqrt(area) of coverages (..., H, W): (...)."""
    inner = coverage[..., 1:-1, 1:-1].sum(dim=(-2, -1))
    area = coverage.sum(dim=(-2, -1))
    return (area - inner) / area.clamp_min(1).sqrt()
