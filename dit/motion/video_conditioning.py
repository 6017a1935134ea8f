"""Time: what turns the picture model into one for film.

B batch, F frames, L text tokens, P tokens of text and phrases, N image tokens,
D width, H heads, E head width, T text width; latents are B C F Y X.
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
    """What the frames of a clip share, computed once."""

    num_frames: int
    rotary_table: Tensor  # (F, N, E/2, 2) over time and places, or (F, 1, E/2, 2) over time alone
    token_bias: Tensor | None = None  # (B, F, N, D), added to the tokens: masks and first frame
    text_kv: tuple[KeyValue, ...]  # text and phrases, one for each motion block, (B, P, H, E)
    attention_mask: Tensor | None = None  # (B or 1, 1, 1, P), added to the scores
    warped_first_frame: WarpedFirstFrame | None = None  # the first frame, moved

    def truncate(self, num_frames: int) -> "VideoConditioning":
        start = None if self.token_bias is None else self.token_bias[:, :num_frames]
        shown = self.warped_first_frame and self.warped_first_frame.truncate(num_frames)
        return replace(
            self,
            num_frames=num_frames,
            rotary_table=self.rotary_table[:num_frames],
            token_bias=start,
            warped_first_frame=shown,
        )

    def with_control(self, conditioner: MotionConditioner, motion_control: MotionControl) -> "VideoConditioning":
        """The same for other frames, those of a click with moved ones; text and phrases stay."""
        assert motion_control.warp is not None
        num_frames = motion_control.warp.frames.shape[1]
        start, shown = (
            conditioner.compute_token_bias(motion_control, num_frames, motion_control.warp),
            make_warped_first_frame(motion_control.first_frame, motion_control.warp),
        )
        return replace(
            self,
            num_frames=num_frames,
            rotary_table=self.rotary_table[:num_frames],
            token_bias=start,
            warped_first_frame=shown,
        )

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "VideoConditioning":
        """The same with a change to every tensor that has rows; the rotation has none."""
        mask = (
            self.attention_mask
            if self.attention_mask is None or len(self.attention_mask) == 1
            else fn(self.attention_mask)
        )
        return replace(
            self,
            token_bias=None if self.token_bias is None else fn(self.token_bias),
            text_kv=tuple(KeyValue(fn(key), fn(value)) for key, value in self.text_kv),
            attention_mask=mask,
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
    """What frames turned by `rotation` (F, N or 1, E/2, 2) share, and what text and a click ask of them.

    text (B, L, T), and its mask (1, 1, 1, L), to be added to scores.
    """
    num_frames, start, shown = len(rotary_table), None, None
    if motion_control is not None and conditioner is not None:
        phrases, asked = conditioner.embed_phrases(motion_control)
        if attention_mask is None:
            attention_mask = text.new_zeros(1, 1, 1, text.shape[1])
        attention_mask = torch.cat([attention_mask.expand(len(asked), -1, -1, -1), asked], dim=-1)
        text = torch.cat([text, phrases.to(text.dtype)], dim=1)
        moved = motion_control.warp or identity_warp(
            motion_control.first_frame, motion_control.masks.shape[1], num_frames
        )
        start = conditioner.compute_token_bias(motion_control, num_frames, moved)
        if conditioner.flow_field is not None:
            shown = make_warped_first_frame(motion_control.first_frame, moved)
    said = []
    for block in blocks:
        with onloaded(block):
            said.append(block.attn2.project_key_value(text))
    return VideoConditioning(
        num_frames=num_frames,
        rotary_table=rotary_table,
        token_bias=start,
        text_kv=tuple(said),
        attention_mask=attention_mask,
        warped_first_frame=shown,
    )
