"""What the blocks take besides the tokens, and how it is read from a `Condition`.

B batch, N image tokens, L text tokens, D width, H heads, E head width, T text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dianjing.dit.attention import KeyValue
from dianjing.dit.block import Prepared
from dianjing.dit.condition import Condition
from dianjing.dit.film import Film
from dianjing.dit.frozen import FrozenBlock

KEY_MULTIPLE = 16  # CPU attention in bfloat16 is several times slower over other numbers of keys


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Time and text, either as they come or prepared for each block; positions; the last norm's part."""

    temb: Tensor | None = None  # (B, D)
    text: Tensor | None = None  # (B, L, T)
    prepared: Sequence[Prepared] | None = None
    frozen: Sequence[FrozenBlock] | None = None
    mask: Tensor | None  # (1, 1, 1, L)
    rotation: Tensor  # (N, E/2, 2)
    scale_shift: Tensor  # (B, 2D)
    film: Film | None = None
    mix: Tensor | None = None  # (B or 1, 2 + KINDS), as in `Condition`


def guide_from_condition(condition: Condition, latents: Tensor) -> Guide:
    """The guide of a condition of one step, made for latents (B, C, F, Y, X) like these."""
    if condition.num_steps != 1:
        raise ValueError(f"a condition of {condition.num_steps} steps; pick one with condition.at(step)")
    num_frames = 1 if condition.film is None else condition.film.num_frames
    made_for, given = (condition.batch_size, num_frames, *condition.size), (len(latents), *latents.shape[2:])
    if made_for != given:
        raise ValueError(f"a condition for (batch, frames, height, width) {made_for}, but latents of {given}")
    parts = zip(condition.shifts[0], condition.keys, condition.values, strict=True)
    return Guide(
        prepared=[Prepared(shift, KeyValue(key, value)) for shift, key, value in parts],
        frozen=condition.frozen,
        mask=condition.mask,
        rotation=condition.rotation,
        scale_shift=condition.scale_shift[0],
        film=condition.film,
        mix=condition.mix,
    )


def fill_up(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Text (B, L, T) with as many keys as CPU attention likes, and the mask (1, 1, 1, L) of those that are text."""
    filling = -text.shape[1] % KEY_MULTIPLE
    if text.device.type != "cpu" or not filling:
        return text, None
    mask = text.new_zeros(1, 1, 1, text.shape[1] + filling)
    mask[..., -filling:] = -torch.inf
    return F.pad(text, (0, 0, 0, filling)), mask
