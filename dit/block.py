"""One block of the backbone: self-attention, attention to the text, feed-forward.

B batch, S steps, N image tokens, L text tokens, D width, H heads, E head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm


def by_row(x: Tensor, rows: int) -> Tensor:
    """(B, ...) -> (rows, ...): the frames of a clip are rows, and share what is the clip's."""
    return x if len(x) == rows else x.repeat_interleave(rows // len(x), dim=0)


class ShiftNorm(nn.Module):
    """LayerNorm moved by a shift that the time embedding decides."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=EPS)

    def shift(self, temb: Tensor) -> Tensor:
        """(..., B, D) -> (..., B, D)"""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.norm(x).add_(by_row(shift, len(x)).unsqueeze(1))


class ScaleShiftNorm(nn.Module):
    """The last norm: scaled and shifted as the time embedding decides."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = LayerNorm(width, eps=EPS, elementwise_affine=False)

    def scale_shift(self, temb: Tensor) -> Tensor:
        """(..., B, D) -> (..., B, 2D)"""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        scale, shift = by_row(scale_shift, len(x)).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Prepared(NamedTuple):
    """What a block needs and the latents do not change."""

    shift: Tensor  # (..., B, D)
    key_value: KeyValue


class DiTBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; late blocks first take in an early block's output."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_dim: int,
        text_dim: int,
        hidden_dim: int,
        activation: str,
        with_skip: bool,
    ):
        super().__init__()
        if with_skip:
            self.skip_norm = LayerNorm(2 * width, eps=EPS)
            self.skip_linear = nn.Linear(2 * width, width)
        self.norm1 = ShiftNorm(width)
        self.attn1 = Attention(width, heads=heads, head_dim=head_dim)
        self.norm2 = LayerNorm(width, eps=EPS)
        self.attn2 = Attention(width, heads=heads, head_dim=head_dim, text_dim=text_dim)
        self.norm3 = LayerNorm(width, eps=EPS)
        self.ff = FeedForward(width, activation_fn=activation, inner_dim=hidden_dim)

    def prepare(self, temb: Tensor, text: Tensor) -> Prepared:
        """temb (..., B, D), text (B, L, T)"""
        return Prepared(self.norm1.shift(temb), self.attn2.key_value(text))

    def forward(
        self,
        hidden_states: Tensor,
        temb: Tensor | None,
        encoder_hidden_states: Tensor | None,
        turns: Tensor,
        attention_mask: Tensor | None = None,
        skip: Tensor | None = None,
        prepared: Prepared | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), given either temb (B, D) and text (B, L, T), or both `prepared`.

        Of film, each frame is a row: (B F, N, D).
        """
        if prepared is None:
            assert temb is not None
            assert encoder_hidden_states is not None
            prepared = self.prepare(temb, encoder_hidden_states)
        x = hidden_states
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))
        x = x + self.attn1(self.norm1(x, prepared.shift), turns)
        x = x + self.attn2(self.norm2(x), turns, attention_mask, prepared.key_value)
        return x + self.ff(self.norm3(x))
