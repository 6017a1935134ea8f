"""Motion control: which regions of a first frame move, and the layers that tell the model.

B batch, F frames, R regions, M tokens of a motion phrase, N image tokens, S points, D width, T text width;
latents are B C F Y X, pixels B F 3 H W from -1 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.embeddings import SINUSOIDAL_DIM, sinusoidal_embedding
from dianjing.dit.motion.flow_field import FlowField, grid_points
from dianjing.dit.motion.warp import MotionTrack, Warp, warp_regions
from dianjing.dit.motion.warp_guidance import WarpedFirstFrame, WarpGuidance

FLOW_GRID = 9  # points along a side at which flow is predicted
STRENGTH_TIMESTEP_SCALE = 1000.0  # strength to the range of a timestep, for sinusoidal features
FRAME_TIMESTEP_SCALE = 4.0  # frame index to the same
EncodeFn = Callable[[Tensor], Tensor]  # pixels (N, 3, H, W), from -1 to 1, to latents


@dataclass(frozen=True, kw_only=True)
class MotionControl:
    """Motion requested for a batch of clips: R regions of the first frame, each with a phrase and a strength.

    first_frame: latents (B, C, Y, X), zeros where there is no first frame. masks: (B, R, Y, X) in latents, 1 inside.
    phrase_embeds: states (B, R, M, T) of the first text encoder. phrase_mask: (B, R, M), 1 for text; a region without
    text is not active. strengths: float32 (B, R), a region's mean speed in image sides per second. warp: latents of the
    warped first frame, for models with a flow field (`MotionConditioner.with_warp`).
    Source: Follow-Your-Click (arXiv 2403.08268), Sec. 3.
    """

    first_frame: Tensor
    masks: Tensor
    phrase_embeds: Tensor
    phrase_mask: Tensor
    strengths: Tensor
    warp: Warp | None = None

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "MotionControl":
        """Return motion control with `fn` applied to every tensor."""
        names = ("first_frame", "masks", "phrase_embeds", "phrase_mask", "strengths")
        parts = {name: fn(getattr(self, name)) for name in names}
        return MotionControl(**parts, warp=self.warp and self.warp.map_tensors(fn))


class MotionConditioner(nn.Module):
    """Embed motion control for `DiT`, and warp the first frame if there is a flow field.

    Masks, first frame and frame index become token biases (B, F, N, D), motion phrases extra text tokens (B, R M, T),
    strengths a bias (B, D) of the timestep embedding. All but the region embedding is zero-initialized.
    """

    def __init__(
        self, *, channels: int, max_regions: int, width: int, text_dim: int, patch_size: int, use_flow_field: bool
    ) -> None:
        super().__init__()
        self.first_frame_patch = nn.Conv2d(channels + max_regions, width, patch_size, stride=patch_size, bias=False)
        self.frame_embed = nn.Linear(SINUSOIDAL_DIM, width, bias=False)
        self.strength_embed = nn.Linear(max_regions * SINUSOIDAL_DIM, width, bias=False)
        self.phrase_strength_embed = nn.Linear(SINUSOIDAL_DIM, text_dim, bias=False)
        self.region_embed = nn.Parameter(torch.empty(max_regions, text_dim))
        self.flow_field: FlowField | None = None
        self.warp_guidance: WarpGuidance | None = None
        if use_flow_field:
            self.flow_field = FlowField(text_dim)
            self.warp_patch = nn.Conv2d(channels + max_regions, width, patch_size, stride=patch_size, bias=False)
            self.warp_guidance = WarpGuidance(width, channels=channels, patch_size=patch_size)
        self.zero_init()

    @torch.no_grad()
    def zero_init(self) -> None:
        """Reset the weights: zeros, and a random region embedding."""
        self.first_frame_patch.weight.zero_()
        self.frame_embed.weight.zero_()
        self.strength_embed.weight.zero_()
        self.phrase_strength_embed.weight.zero_()
        self.region_embed.normal_(std=self.region_embed.shape[1] ** -0.5)
        if self.warp_guidance is not None and self.flow_field is not None:
            self.warp_patch.weight.zero_()
            self.flow_field.zero_init()
            self.warp_guidance.zero_init()

    def predict_backward_flow(
        self,
        motion_control: MotionControl,
        moments: Tensor,
        num_frames: int,
        *,
        points: Tensor,
        frame_step: float = 1.0,
    ) -> Tensor:
        """Predict flow (B, R, F, S, 2) at points (S, 2) for regions of these moments (B, R, 4), see `FlowField`."""
        assert self.flow_field is not None
        return self.flow_field(
            motion_control.phrase_embeds,
            motion_control.phrase_mask,
            motion_control.strengths,
            moments,
            num_frames=num_frames,
            points=points,
            frame_step=frame_step,
        )

    @torch.no_grad()
    def with_warp(
        self,
        motion_control: MotionControl,
        image: Tensor,
        track: MotionTrack,
        *,
        num_frames: int,
        encode: EncodeFn,
        background: Tensor | None = None,
    ) -> tuple[MotionControl, Tensor]:
        """Return motion control with the warped first frame, and its frames (B, F, 3, H, W).

        image: pixels (B, 3, H, W) in which the track began. They are warped and encoded, since warped latents would be
        blurred. background: what is behind the active regions, see `warp_regions`. A model without a flow field gets
        the motion control unchanged, and still frames.
        """
        if self.flow_field is None:
            return motion_control, image.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
        warp, _ = self._warp(motion_control, image, track, num_frames, background=background)
        first, rest = motion_control.first_frame.unsqueeze(1), warp.frames[:, 1:]
        has_first_frame = first.flatten(1).any(dim=1).view(-1, 1, 1, 1, 1)
        latents = encode(rest.flatten(0, 1)).unflatten(0, rest.shape[:2]) * has_first_frame
        frames = torch.cat([first, latents.to(first.dtype)], dim=1)
        coverage = F.adaptive_avg_pool2d(warp.coverage.flatten(0, 1), (first.shape[-2], first.shape[-1]))
        coverage = coverage.unflatten(0, frames.shape[:2]).to(first.dtype)
        return replace(motion_control, warp=Warp(frames, coverage)), warp.frames

    @torch.no_grad()
    def advance(
        self, motion_control: MotionControl, track: MotionTrack, *, num_frames: int
    ) -> tuple[MotionTrack, Tensor]:
        """Return the track after `num_frames` frames of this motion, and the coverage (B, F, R, H, W) on the way."""
        if self.flow_field is None:
            return track, track.coverage.unsqueeze(1)
        warp, backward_flow = self._warp(motion_control, track.initial_masks[:, :1], track, num_frames)
        return MotionTrack(track.initial_masks, warp.coverage[:, -1], backward_flow[:, :, -1]), warp.coverage

    def _warp(
        self,
        motion_control: MotionControl,
        image: Tensor,
        track: MotionTrack,
        num_frames: int,
        *,
        background: Tensor | None = None,
    ) -> tuple[Warp, Tensor]:
        """Warp an image, and return the flow (B, R, F, P, Q, 2) back to it; frame 0 is the track's present frame."""
        points = grid_points(FLOW_GRID, device=image.device)
        flow = self.predict_backward_flow(motion_control, track.compute_moments(), num_frames, points=points)
        flow = track.compose(flow.unflatten(3, (FLOW_GRID, FLOW_GRID)))
        active = motion_control.phrase_mask.any(dim=-1)
        masks = track.initial_masks.to(image.dtype)
        warp = warp_regions(image, masks, flow, active, background=background)
        present = track.coverage.to(image.dtype) * active[:, :, None, None]
        return Warp(warp.frames, torch.cat([present.unsqueeze(1), warp.coverage[:, 1:]], dim=1)), flow

    def compute_token_bias(self, motion_control: MotionControl, num_frames: int, warp: Warp) -> Tensor:
        """Embed masks (on the first frame only), first frame and warp (on all frames): (B, F, N, D).

        Clips that have a first frame also get the frame index: attention over time alone sees the order of frames, but
        not where a clip begins.
        """
        first_frame, masks = motion_control.first_frame, motion_control.masks.to(motion_control.first_frame.dtype)
        inputs = [torch.cat([first_frame, each], dim=1) for each in (masks, torch.zeros_like(masks))]
        tokens = self.first_frame_patch(torch.cat(inputs)).flatten(2).transpose(1, 2)  # (2 B, N, D)
        first, later = tokens.chunk(2)
        tokens = torch.cat([first.unsqueeze(1), later.unsqueeze(1).expand(-1, num_frames - 1, -1, -1)], dim=1)
        frame_index = torch.arange(num_frames, device=tokens.device)
        features = sinusoidal_embedding(frame_index * FRAME_TIMESTEP_SCALE).to(tokens)
        has_first_frame = first_frame.flatten(1).any(dim=1)  # (B,)
        if self.flow_field is not None:
            warped = self.warp_patch(torch.cat(warp, dim=2).flatten(0, 1))
            tokens = tokens + rearrange(warped, "(b f) d y x -> b f (y x) d", f=num_frames)
        return tokens + has_first_frame[:, None, None, None] * self.frame_embed(features)[:, None]

    def apply_warp_guidance(
        self,
        prediction: Tensor,
        latents: Tensor,
        tokens: Tensor,
        warped_first_frame: WarpedFirstFrame | None,
        blend_coefficients: Tensor | None,
    ) -> Tensor:
        """Correct a prediction from latents, both (B, C, F, Y, X), by `WarpGuidance` where there is a warp."""
        if self.warp_guidance is None or warped_first_frame is None or blend_coefficients is None:
            return prediction
        return self.warp_guidance(prediction, latents, tokens, warped_first_frame, blend_coefficients)

    def compute_blend_coefficients(self, timesteps: Tensor) -> Tensor | None:
        """Compute `WarpGuidance.compute_blend_coefficients`; None without a flow field."""
        return None if self.warp_guidance is None else self.warp_guidance.compute_blend_coefficients(timesteps)

    def embed_phrases(self, motion_control: MotionControl) -> tuple[Tensor, Tensor]:
        """Embed motion phrases: text tokens (B, R M, T) and their mask (B, 1, 1, R M), to be added to scores."""
        features = sinusoidal_embedding(motion_control.strengths.float() * STRENGTH_TIMESTEP_SCALE)
        strengths = self.phrase_strength_embed(features.to(motion_control.phrase_embeds.dtype))
        states = (motion_control.phrase_embeds + strengths.unsqueeze(2) + self.region_embed[:, None]).flatten(1, 2)
        is_padding = motion_control.phrase_mask.flatten(1) == 0
        mask = torch.zeros_like(is_padding, dtype=states.dtype).masked_fill(is_padding, -torch.inf)
        return states, mask[:, None, None]

    def compute_timestep_bias(self, motion_control: MotionControl) -> Tensor:
        """Embed the strengths of active regions: (B, D), to be added to the timestep embedding."""
        active = motion_control.phrase_mask.any(dim=-1, keepdim=True)  # (B, R, 1)
        features = sinusoidal_embedding(motion_control.strengths.float() * STRENGTH_TIMESTEP_SCALE) * active
        return self.strength_embed(features.flatten(1).to(self.strength_embed.weight.dtype))
