"""What the prompt, the picture's size and the schedule decide: computed once, used at every step.

S steps, B batch, N image tokens, L text tokens, D width, H heads, E head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dianjing.dit.attention import KeyValue
from dianjing.dit.blocks import BlockConditioning
from dianjing.dit.fused_cpu import FusedBlock
from dianjing.dit.motion.video_conditioning import VideoConditioning


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Everything `DiT` needs besides the latents, for one batch of prompts and a whole schedule.

    Made by `DiT.condition`. `at` picks a step, `rows` picks or repeats prompts.
    """

    text_keys: tuple[Tensor, ...]  # of the text, one for each block: (B, L, H, E)
    text_values: tuple[Tensor, ...]
    attention_mask: Tensor | None  # (L,), added to the scores: 0 for text, -inf for the filling; None without filling
    shifts: Tensor  # of the blocks: (S, depth, B, D)
    scale_shift: Tensor  # of the last norm: (S, B, 2D)
    rotary_table: Tensor  # (N, E/2, 2)
    latent_size: tuple[int, int]  # height and width in latents
    fused_blocks: tuple[FusedBlock, ...] | None = None  # the blocks for a CPU in bfloat16, where that holds
    video: VideoConditioning | None = None  # None for a picture
    blend_coefficients: Tensor | None = None  # `ClickConditioner.mix` of the steps: (S, 2 + KINDS)

    @property
    def num_steps(self) -> int:
        return self.shifts.shape[0]

    @property
    def batch_size(self) -> int:
        return self.shifts.shape[2]

    def select_step(self, step: int) -> "Conditioning":
        """The same for one step only, as `DiT.forward` takes it; no copy is made."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the schedule of {self.num_steps} steps")
        of_step = slice(step, step + 1)
        mix = None if self.blend_coefficients is None else self.blend_coefficients[of_step]
        return replace(self, shifts=self.shifts[of_step], scale_shift=self.scale_shift[of_step], blend_coefficients=mix)

    def truncate(self, num_frames: int) -> "Conditioning":
        """The same for the first `num_frames` of those it was made for."""
        made_for = 1 if self.video is None else self.video.num_frames
        if num_frames > made_for:
            raise ValueError(f"{num_frames} frames of a condition for {made_for}")
        if self.video is None:
            return self
        return replace(self, video=self.video.truncate(num_frames))

    def index_batch(self, index: slice | list[int] | Tensor) -> "Conditioning":
        """The prompts at `index` of the batch: a slice to pick a part, [0, 0, 1, 1] for two pictures each."""
        if isinstance(index, list):
            index = torch.tensor(index, device=self.shifts.device)
        return replace(
            self,
            text_keys=tuple(key[index] for key in self.text_keys),
            text_values=tuple(value[index] for value in self.text_values),
            shifts=self.shifts[:, :, index],
            scale_shift=self.scale_shift[:, index],
            video=self.video and self.video.map_tensors(lambda tensor: tensor[index]),
        )

    def to(self, *args, **kwargs) -> "Conditioning":
        """As `torch.Tensor.to`; the rotation stays in float32, and frozen blocks stay behind."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(*args, **kwargs)

        return Conditioning(
            text_keys=tuple(map(move, self.text_keys)),
            text_values=tuple(map(move, self.text_values)),
            attention_mask=None if self.attention_mask is None else move(self.attention_mask),
            shifts=move(self.shifts),
            scale_shift=move(self.scale_shift),
            rotary_table=move(self.rotary_table).to(self.rotary_table.dtype),
            latent_size=self.latent_size,
            video=self.video
            and replace(self.video.map_tensors(move), rotation=self.video.rotary_table.to(self.shifts.device)),
            blend_coefficients=None if self.blend_coefficients is None else move(self.blend_coefficients),
        )


KEY_MULTIPLE = 16  # CPU attention in bfloat16 is several times slower over other numbers of keys


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Time and text, either as they come or prepared for each block; positions; the last norm's part."""

    temb: Tensor | None = None  # (B, D)
    text: Tensor | None = None  # (B, L, T)
    blocks: Sequence[BlockConditioning] | None = None
    fused_blocks: Sequence[FusedBlock] | None = None
    attention_mask: Tensor | None  # (1, 1, 1, L)
    rotary_table: Tensor  # (N, E/2, 2)
    scale_shift: Tensor  # (B, 2D)
    video: VideoConditioning | None = None
    blend_coefficients: Tensor | None = None  # (B or 1, 2 + KINDS), as in `Condition`


def guide_from_condition(conditioning: Conditioning, latents: Tensor) -> Guide:
    """The guide of a condition of one step, made for latents (B, C, F, Y, X) like these."""
    if conditioning.num_steps != 1:
        raise ValueError(f"a condition of {conditioning.num_steps} steps; pick one with condition.at(step)")
    num_frames = 1 if conditioning.video is None else conditioning.video.num_frames
    made_for, given = (
        (conditioning.batch_size, num_frames, *conditioning.latent_size),
        (len(latents), *latents.shape[2:]),
    )
    if made_for != given:
        raise ValueError(f"a condition for (batch, frames, height, width) {made_for}, but latents of {given}")
    parts = zip(conditioning.shifts[0], conditioning.text_keys, conditioning.text_values, strict=True)
    return Guide(
        blocks=[BlockConditioning(shift, KeyValue(key, value)) for shift, key, value in parts],
        fused_blocks=conditioning.fused_blocks,
        attention_mask=conditioning.attention_mask,
        rotary_table=conditioning.rotary_table,
        scale_shift=conditioning.scale_shift[0],
        video=conditioning.video,
        blend_coefficients=conditioning.blend_coefficients,
    )


def pad_text_tokens(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Text (B, L, T) with as many keys as CPU attention likes, and the mask (1, 1, 1, L) of those that are text."""
    filling = -text.shape[1] % KEY_MULTIPLE
    if text.device.type != "cpu" or not filling:
        return text, None
    mask = text.new_zeros(1, 1, 1, text.shape[1] + filling)
    mask[..., -filling:] = -torch.inf
    return F.pad(text, (0, 0, 0, filling)), mask
