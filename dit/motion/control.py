"""What a click asks of a film: what should move, and how the model is told.

B batch, F frames, R regions, M tokens of a motion phrase, N image tokens, D width, T text width; latents are B C F Y X.
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

STRENGTH_TIMESTEP_SCALE = 1000.0  # picture sides a second to the range of a timestep
EncodeFn = Callable[[Tensor], Tensor]  # pictures (N, 3, H, W), from -1 to 1, to latents
FLOW_GRID = 9  # points along a side that ways are told for
FRAME_TIMESTEP_SCALE = 4.0  # frames since the first one to the same


@dataclass(frozen=True, kw_only=True)
class MotionControl:
    """What should move, in a batch of clips: R regions of the first frame, each with a phrase and a strength.

    first_frame: its latents (B, C, Y, X), zeros where it is not given. masks: (B, R, Y, X) in latents, 1 inside.
    phrases: states (B, R, M, T) of the first text encoder, and phrases_mask (B, R, M), 1 for text: a row or region
    without text is not asked to move. strengths: float32 (B, R), a region's mean speed in picture sides a second.
    moved: latents of the first frame moved as is asked, where a model takes it (`ClickConditioner.with_moved`).
    Source: Follow-Your-Click (arXiv 2403.08268), Sec. 3.
    """

    first_frame: Tensor
    masks: Tensor
    phrase_embeds: Tensor
    phrase_mask: Tensor
    strengths: Tensor
    warp: Warp | None = None

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "MotionControl":
        """The same with a change to every tensor."""
        names = ("first_frame", "masks", "phrase_embeds", "phrase_mask", "strengths")
        parts = {name: fn(getattr(self, name)) for name in names}
        return MotionControl(**parts, warp=self.warp and self.warp.map_tensors(fn))


class MotionConditioner(nn.Module):
    """Masks, first frame and the frames since to tokens, phrases of all regions to one row, strengths to the time.

    All but the phrases start at zero. With a motion field the first frame is also moved as is asked, and taken over.
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
        """Zeros, and random tokens."""
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
        self, motion_control: MotionControl, moments: Tensor, num_frames: int, *, points: Tensor
    ) -> Tensor:
        """What a click asks of regions of these sizes (B, R, 4), as `MotionField` says it at points (S, 2):
        (B, R, F, S, 2).
        """
        assert self.flow_field is not None
        said = (motion_control.phrase_embeds, motion_control.phrase_mask, motion_control.strengths)
        return self.flow_field(*said, moments, num_frames=num_frames, points=points)

    @torch.no_grad()
    def with_warp(
        self, motion_control: MotionControl, image: Tensor, track: MotionTrack, *, num_frames: int, encode: EncodeFn
    ) -> tuple[MotionControl, Tensor]:
        """A click with its first frame moved as it asks: the picture (B, 3, H, W) itself is, in which the path began,
        and encoded anew, so that it is as sharp as it was; and its frames (B, F, 3, H, W) as pictures.

        A model that takes no moved frames gets the click as it is, and a picture that stands still.
        """
        if self.flow_field is None:
            return motion_control, image.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
        moved, _ = self._warp(motion_control, image, track, num_frames)
        first, rest = motion_control.first_frame.unsqueeze(1), moved.frames[:, 1:]
        is_given = first.flatten(1).any(dim=1).view(-1, 1, 1, 1, 1)
        latents = encode(rest.flatten(0, 1)).unflatten(0, rest.shape[:2]) * is_given
        covered = F.adaptive_avg_pool2d(moved.coverage.flatten(0, 1), (first.shape[-2], first.shape[-1]))
        frames = torch.cat([first, latents.to(first.dtype)], dim=1)
        covered = covered.unflatten(0, frames.shape[:2]).to(first.dtype)
        return replace(motion_control, warp=Warp(frames, covered)), moved.frames

    @torch.no_grad()
    def advance(
        self, motion_control: MotionControl, track: MotionTrack, *, num_frames: int
    ) -> tuple[MotionTrack, Tensor]:
        """The path after so many frames of what is asked, and where regions are on the way: (B, F, R, H, W)."""
        if self.flow_field is None:
            return track, track.coverage.unsqueeze(1)
        moved, ways = self._warp(motion_control, track.initial_masks[:, :1], track, num_frames)
        return MotionTrack(track.initial_masks, moved.coverage[:, -1], ways[:, :, -1]), moved.coverage

    def _warp(
        self, motion_control: MotionControl, image: Tensor, track: MotionTrack, num_frames: int
    ) -> tuple[Warp, Tensor]:
        """A picture moved, and the ways back to it (B, R, F, P, Q, 2); on the first frame all is where it is now."""
        at = grid_points(FLOW_GRID, device=image.device)
        ways = self.predict_backward_flow(motion_control, track.compute_moments(), num_frames, points=at).unflatten(
            3, (FLOW_GRID, FLOW_GRID)
        )
        ways, asked = track.compose(ways), motion_control.phrase_mask.any(dim=-1)
        moved = warp_regions(image, track.initial_masks.to(image.dtype), ways, asked)
        now = track.coverage.to(image.dtype) * asked[:, :, None, None]
        return Warp(moved.frames, torch.cat([now.unsqueeze(1), moved.coverage[:, 1:]], dim=1)), ways

    def compute_token_bias(self, motion_control: MotionControl, num_frames: int, warp: Warp) -> Tensor:
        """(B, F, N, D): the mask is on the first frame, the first frame's latents are on all, and moved as asked.

        Where a first frame is shown, each frame also knows how long ago it was: attention over time alone sees who
        comes before whom, but not where a clip begins.
        """
        first = torch.cat(
            [motion_control.first_frame, motion_control.masks.to(motion_control.first_frame.dtype)], dim=1
        )
        later = torch.cat(
            [motion_control.first_frame, torch.zeros_like(motion_control.masks, dtype=first.dtype)], dim=1
        )
        tokens = self.first_frame_patch(torch.cat([first, later])).flatten(2).transpose(1, 2)  # (2 B, N, D)
        first, later = tokens.chunk(2)
        tokens = torch.cat([first.unsqueeze(1), later.unsqueeze(1).expand(-1, num_frames - 1, -1, -1)], dim=1)
        waves = sinusoidal_embedding(torch.arange(num_frames, device=tokens.device) * FRAME_TIMESTEP_SCALE).to(tokens)
        is_shown = motion_control.first_frame.flatten(1).any(dim=1)  # (B,)
        if self.flow_field is not None:
            seen = self.warp_patch(torch.cat(warp, dim=2).flatten(0, 1))
            tokens = tokens + rearrange(seen, "(b f) d y x -> b f (y x) d", f=num_frames)
        return tokens + is_shown[:, None, None, None] * self.frame_embed(waves)[:, None]

    def apply_warp_guidance(
        self,
        prediction: Tensor,
        latents: Tensor,
        tokens: Tensor,
        warped_first_frame: WarpedFirstFrame | None,
        blend_coefficients: Tensor | None,
    ) -> Tensor:
        """A prediction from latents, both (B, C, F, Y, X), with what is taken over from the first frame."""
        if self.warp_guidance is None or warped_first_frame is None or blend_coefficients is None:
            return prediction
        return self.warp_guidance(prediction, latents, tokens, warped_first_frame, blend_coefficients)

    def compute_blend_coefficients(self, timesteps: Tensor) -> Tensor | None:
        """`FirstFrameTrust.mix`; None without a motion field."""
        return None if self.warp_guidance is None else self.warp_guidance.compute_blend_coefficients(timesteps)

    def embed_phrases(self, motion_control: MotionControl) -> tuple[Tensor, Tensor]:
        """Tokens (B, R M, T) and their mask (B, 1, 1, R M), to be added to scores."""
        speeds = self.phrase_strength_embed(
            sinusoidal_embedding(motion_control.strengths.float() * STRENGTH_TIMESTEP_SCALE).to(
                motion_control.phrase_embeds.dtype
            )
        )
        states = (motion_control.phrase_embeds + speeds.unsqueeze(2) + self.region_embed[:, None]).flatten(1, 2)
        absent = motion_control.phrase_mask.flatten(1) == 0
        mask = torch.zeros_like(absent, dtype=states.dtype).masked_fill(absent, -torch.inf)
        return states, mask[:, None, None]

    def compute_timestep_bias(self, motion_control: MotionControl) -> Tensor:
        """(B, D), to be added to the time embedding; regions without a phrase add nothing."""
        asked = motion_control.phrase_mask.any(dim=-1, keepdim=True)  # (B, R, 1)
        waves = sinusoidal_embedding(motion_control.strengths.float() * STRENGTH_TIMESTEP_SCALE) * asked
        return self.strength_embed(waves.flatten(1).to(self.strength_embed.weight.dtype))
