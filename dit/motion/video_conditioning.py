"""Video conditioning: what motion blocks take besides the tokens, computed once and used at every step.

B batch, F frames, L text tokens, P tokens of text and motion phrases, N image tokens, D width, H heads, E head width,
T text width; latents are B C F Y X.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.dit.attention import KeyValue
from dianjing.dit.blocks import MotionBlock
from dianjing.dit.motion.control import MotionConditioner, MotionControl
from dianjing.dit.motion.warp import identity_warp
from dianjing.dit.motion.warp_guidance import WarpedFirstFrame, make_warped_first_frame
from dianjing.dit.offload import onloaded


@dataclass(frozen=True, kw_only=True)
class VideoConditioning:
    """Inputs of `DiT` that the frames of a clip share."""

    num_frames: int
    rotary_table: Tensor  # (F, N, E/2, 2) over time and grid, or (F, 1, E/2, 2) over time alone
    token_bias: Tensor | None = None  # added to the tokens, (B, F, N, D)
    text_kv: tuple[KeyValue, ...]  # text and phrases for each motion block, (B, P, H, E)
    attention_mask: Tensor | None = None  # added to scores, (B or 1, 1, 1, P)
    warped_first_frame: WarpedFirstFrame | None = None

    def truncate(self, num_frames: int) -> "VideoConditioning":
        """Return the conditioning of the first `num_frames` frames; tensors are views."""
        return replace(
            self,
            num_frames=num_frames,
            rotary_table=self.rotary_table[:num_frames],
            token_bias=None if self.token_bias is None else self.token_bias[:, :num_frames],
            warped_first_frame=self.warped_first_frame and self.warped_first_frame.truncate(num_frames),
        )

    def with_control(self, conditioner: MotionConditioner, motion_control: MotionControl) -> "VideoConditioning":
        """Return the conditioning of other frames: those of motion control with a warp; text and phrases stay."""
        assert motion_control.warp is not None
        num_frames = motion_control.warp.frames.shape[1]
        return replace(
            self,
            num_frames=num_frames,
            rotary_table=self.rotary_table[:num_frames],
            token_bias=conditioner.compute_token_bias(motion_control, num_frames, motion_control.warp),
            warped_first_frame=make_warped_first_frame(motion_control.first_frame, motion_control.warp),
        )

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "VideoConditioning":
        """Return a conditioning with `fn` applied to every tensor that has a batch axis."""
        mask = self.attention_mask
        return replace(
            self,
            token_bias=None if self.token_bias is None else fn(self.token_bias),
            text_kv=tuple(KeyValue(fn(key), fn(value)) for key, value in self.text_kv),
            attention_mask=mask if mask is None or len(mask) == 1 else fn(mask),
            warped_first_frame=self.warped_first_frame and self.warped_first_frame.map_tensors(fn),
        )


def make_video_conditioning(
    rotary_table: Tensor,
    blocks: Iterable[MotionBlock],
    conditioner: MotionConditioner | None,
    motion_control: MotionControl | None,
    *,
    text: Tensor,
    attention_mask: Tensor | None,
) -> VideoConditioning:
    """Compute the conditioning of motion blocks from a rotary table (F, N or 1, E/2, 2), text and motion control.

    text: (B, L, T). attention_mask: (1, 1, 1, L), to be added to scores.
    """
    num_frames, token_bias, warped_first_frame = len(rotary_table), None, None
    if motion_control is not None and conditioner is not None:
        phrases, phrase_mask = conditioner.embed_phrases(motion_control)
        if attention_mask is None:
            attention_mask = text.new_zeros(1, 1, 1, text.shape[1])
        attention_mask = torch.cat([attention_mask.expand(len(phrase_mask), -1, -1, -1), phrase_mask], dim=-1)
        text = torch.cat([text, phrases.to(text.dtype)], dim=1)
        first_frame, num_regions = motion_control.first_frame, motion_control.masks.shape[1]
        warp = motion_control.warp or identity_warp(first_frame, num_regions, num_frames)
        token_bias = conditioner.compute_token_bias(motion_control, num_frames, warp)
        if conditioner.flow_field is not None:
            warped_first_frame = make_warped_first_frame(first_frame, warp)
    text_kv = []
    for block in blocks:
        with onloaded(block):
            text_kv.append(block.attn2.project_key_value(text))
    return VideoConditioning(
        num_frames=num_frames,
        rotary_table=rotary_table,
        token_bias=token_bias,
        text_kv=tuple(text_kv),
        attention_mask=attention_mask,
        warped_first_frame=warped_first_frame,
    )
