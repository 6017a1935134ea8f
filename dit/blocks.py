"""One block of the backbone: self-attention, attention to the text, feed-forward.

B batch, S steps, N image tokens, L text tokens, D width, H heads, E head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm


def expand_to_frames(x: Tensor, num_rows: int) -> Tensor:
    """(B, ...) -> (rows, ...): the frames of a clip are rows, and share what is the clip's."""
    return x if len(x) == num_rows else x.repeat_interleave(num_rows // len(x), dim=0)


class AdaLayerNormShift(nn.Module):
    """LayerNorm moved by a shift that the time embedding decides."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=EPS)

    def compute_shift(self, temb: Tensor) -> Tensor:
        """(..., B, D) -> (..., B, D)"""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.norm(x).add_(expand_to_frames(shift, len(x)).unsqueeze(1))


class AdaLayerNormContinuous(nn.Module):
    """The last norm: scaled and shifted as the time embedding decides."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = LayerNorm(width, eps=EPS, elementwise_affine=False)

    def compute_scale_shift(self, temb: Tensor) -> Tensor:
        """(..., B, D) -> (..., B, 2D)"""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        scale, shift = expand_to_frames(scale_shift, len(x)).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class BlockConditioning(NamedTuple):
    """What a block needs and the latents do not change."""

    shift: Tensor  # (..., B, D)
    key_value: KeyValue


class DiTBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; late blocks first take in an early block's output."""

    def __init__(
        self, width: int, *, heads: int, head_dim: int, text_dim: int, hidden_dim: int, activation: str, has_skip: bool
    ):
        super().__init__()
        if has_skip:
            self.skip_norm = LayerNorm(2 * width, eps=EPS)
            self.skip_linear = nn.Linear(2 * width, width)
        self.norm1 = AdaLayerNormShift(width)
        self.attn1 = Attention(width, heads=heads, head_dim=head_dim)
        self.norm2 = LayerNorm(width, eps=EPS)
        self.attn2 = Attention(width, heads=heads, head_dim=head_dim, text_dim=text_dim)
        self.norm3 = LayerNorm(width, eps=EPS)
        self.ff = FeedForward(width, activation_fn=activation, inner_dim=hidden_dim)

    def precompute(self, temb: Tensor, text: Tensor) -> BlockConditioning:
        """temb (..., B, D), text (B, L, T)"""
        return BlockConditioning(self.norm1.compute_shift(temb), self.attn2.project_key_value(text))

    def forward(
        self,
        hidden_states: Tensor,
        temb: Tensor | None,
        encoder_hidden_states: Tensor | None,
        rotary_emb: Tensor,
        attention_mask: Tensor | None = None,
        skip: Tensor | None = None,
        conditioning: BlockConditioning | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), given either temb (B, D) and text (B, L, T), or both `prepared`.

        Of film, each frame is a row: (B F, N, D).
        """
        if conditioning is None:
            assert temb is not None
            assert encoder_hidden_states is not None
            conditioning = self.precompute(temb, encoder_hidden_states)
        x = hidden_states
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))
        x = x + self.attn1(self.norm1(x, conditioning.shift), rotary_emb)
        x = x + self.attn2(self.norm2(x), rotary_emb, attention_mask, conditioning.key_value)
        return x + self.ff(self.norm3(x))


def reset_parameters(module: nn.Module) -> None:
    """The random weights that torch gives the layers of a new module."""
    for layer in module.modules():
        if layer is not module and hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


class MotionBlock(nn.Module):
    """After blocks of the picture model: attention over time, to text and motion phrases, feed-forward.

    Starts as nothing. Each place attends to itself in all frames, or, where the rotation has places, every place to
    every place in all frames: what moves is then seen where it was, for the price of longer rows. With text and
    feed-forward of its own, time can be learnt while the picture model stays as it is.
    Source: AnimateDiff (arXiv 2307.04725); the phrases' own attention: Follow-Your-Click, "motion-augmented module".
    """

    def __init__(self, width: int, *, heads: int, head_dim: int, text_dim: int, hidden_dim: int, activation: str):
        super().__init__()
        self.norm1 = LayerNorm(width, eps=EPS)
        self.attn1 = Attention(width, heads=heads, head_dim=head_dim)
        self.norm2 = LayerNorm(width, eps=EPS)
        self.attn2 = Attention(width, heads=heads, head_dim=head_dim, text_dim=text_dim)
        self.norm3 = LayerNorm(width, eps=EPS)
        self.ff = FeedForward(width, activation_fn=activation, inner_dim=hidden_dim)
        self.zero_init()

    @torch.no_grad()
    def zero_init(self) -> None:
        """Random weights inside, zeros at the end of each part."""
        reset_parameters(self)
        for last in (self.attn1.to_out[0], self.attn2.to_out[0], self.ff.net[-1]):
            last.weight.zero_()
            last.bias.zero_()

    def forward(
        self, x: Tensor, num_frames: int, rotary_emb: Tensor, text_kv: KeyValue, attention_mask: Tensor | None = None
    ) -> Tensor:
        """(B F, N, D) -> (B F, N, D); turns (F, N or 1, 1, E/2, 2) or complex."""
        tokens = x.shape[1]
        if rotary_emb.shape[1] == tokens > 1:
            x = rearrange(x, "(b f) n d -> b (f n) d", f=num_frames)
            rotary_emb = rotary_emb.flatten(0, 1)
            x = x + self.attn1(self.norm1(x), rotary_emb)
            x = self._cross_attend(x, rotary_emb, text_kv, attention_mask)
            return rearrange(x, "b (f n) d -> (b f) n d", f=num_frames)
        x = rearrange(x, "(b f) n d -> (b n) f d", f=num_frames)
        rotary_emb = rotary_emb.squeeze(1)
        x = x + self.attn1(self.norm1(x), rotary_emb)
        x = rearrange(x, "(b n) f d -> b (n f) d", n=tokens)
        x = self._cross_attend(x, rotary_emb.repeat(tokens, *(1,) * (rotary_emb.ndim - 1)), text_kv, attention_mask)
        return rearrange(x, "b (n f) d -> (b f) n d", f=num_frames)

    def _cross_attend(self, x: Tensor, rotary_emb: Tensor, text_kv: KeyValue, attention_mask: Tensor | None) -> Tensor:
        """(B, F N, D) or (B, N F, D): what text and phrases ask for is done."""
        x = x + self.attn2(self.norm2(x), rotary_emb, attention_mask, text_kv)
        return x + self.ff(self.norm3(x))
