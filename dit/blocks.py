"""Blocks of the backbone: the Hunyuan-DiT block, the motion block and their modulated norms.

S steps, B batch, F frames, N image tokens, L text tokens, D width, H heads, E head width, T text width.
In a video each frame is a row of the batch: (B F, N, D).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm, ScaledKeyValue
from dianjing.dit.feed_forward import FeedForward


def expand_to_frames(x: Tensor, num_rows: int) -> Tensor:
    """Repeat what belongs to a clip for each of its frames: (B, ...) -> (num_rows, ...)."""
    return x if len(x) == num_rows else x.repeat_interleave(num_rows // len(x), dim=0)


class AdaLayerNormShift(nn.Module):
    """LayerNorm plus a shift computed from the timestep embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=EPS)

    def compute_shift(self, temb: Tensor) -> Tensor:
        """Compute the shift from the timestep embedding: (S, B, D) -> (S, B, D)."""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Normalize x (B F, N, D) and add the shift (B, D) of one step."""
        return self.norm(x).add_(expand_to_frames(shift, len(x)).unsqueeze(1))


class AdaLayerNormContinuous(nn.Module):
    """LayerNorm with scale and shift computed from the timestep embedding; the last norm of the model."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = LayerNorm(width, eps=EPS, elementwise_affine=False)

    def compute_scale_shift(self, temb: Tensor) -> Tensor:
        """Compute scale and shift from the timestep embedding: (S, B, D) -> (S, B, 2D)."""
        return self.linear(F.silu(temb))

    def forward(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        """Normalize x (B F, N, D) and apply the scale and shift (B, 2D) of one step."""
        scale, shift = expand_to_frames(scale_shift, len(x)).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class BlockConditioning(NamedTuple):
    """Inputs of a block that do not depend on the latents."""

    shift: Tensor  # (S, B, D), or (B, D) of one step
    key_value: KeyValue
    image_prompts: tuple[ScaledKeyValue, ...] = ()  # of IP-Adapters


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to text, feed-forward; with a skip, of the joined output of an earlier block."""

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
        """Compute shift, keys and values from the timestep embedding (S, B, D) and text (B, L, T)."""
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
        """Run the block on tokens (B F, N, D): (B F, N, D).

        Takes the precomputed `conditioning` of one step, or else temb (B, D) and text `encoder_hidden_states`
        (B, L, T).
        """
        if conditioning is None:
            assert temb is not None
            assert encoder_hidden_states is not None
            conditioning = self.precompute(temb, encoder_hidden_states)
        x = hidden_states
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))
        x = x + self.attn1(self.norm1(x, conditioning.shift), rotary_emb)
        text_and_images = (conditioning.key_value, conditioning.image_prompts)
        x = x + self.attn2(self.norm2(x), rotary_emb, attention_mask, *text_and_images)
        return x + self.ff(self.norm3(x))


def reset_parameters(module: nn.Module) -> None:
    """Give every layer of a module the random weights of a new one."""
    for layer in module.modules():
        if layer is not module and hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


class MotionBlock(nn.Module):
    """Attention over time, cross-attention to text and motion phrases, feed-forward; zero-initialized.

    Image tokens attend to themselves in all frames, or to all tokens of all frames where the rotary table has grid
    positions: objects are then found where they were, at the cost of longer sequences. Text attention and feed-forward
    are the block's own, so that motion can be learned while the image model is frozen.
    Source: AnimateDiff (arXiv 2307.04725); attention to phrases: Follow-Your-Click, "motion-augmented module".
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
        """Reset the weights: zeros in the last layer of each part, so that the block changes nothing."""
        reset_parameters(self)
        for last in (self.attn1.to_out[0], self.attn2.to_out[0], self.ff.net[-1]):
            last.weight.zero_()
            last.bias.zero_()

    def forward(
        self,
        hidden_states: Tensor,
        num_frames: int,
        rotary_emb: Tensor,
        text_kv: KeyValue,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the block on tokens (B F, N, D): (B F, N, D).

        rotary_emb: (F, N or 1, 1, E/2, 2), or complex without the last axis. text_kv: (B, L, H, E) each.
        """
        x, num_tokens = hidden_states, hidden_states.shape[1]
        if rotary_emb.shape[1] == num_tokens > 1:
            x = rearrange(x, "(b f) n d -> b (f n) d", f=num_frames)
            rotary_emb = rotary_emb.flatten(0, 1)
            x = x + self.attn1(self.norm1(x), rotary_emb)
            x = self._cross_attend(x, rotary_emb, text_kv, attention_mask)
            return rearrange(x, "b (f n) d -> (b f) n d", f=num_frames)
        x = rearrange(x, "(b f) n d -> (b n) f d", f=num_frames)
        rotary_emb = rotary_emb.squeeze(1)
        x = x + self.attn1(self.norm1(x), rotary_emb)
        x = rearrange(x, "(b n) f d -> b (n f) d", n=num_tokens)
        x = self._cross_attend(x, rotary_emb.repeat(num_tokens, *(1,) * (rotary_emb.ndim - 1)), text_kv, attention_mask)
        return rearrange(x, "b (n f) d -> (b f) n d", f=num_frames)

    def _cross_attend(self, x: Tensor, rotary_emb: Tensor, text_kv: KeyValue, attention_mask: Tensor | None) -> Tensor:
        """Attend to text and motion phrases, then feed forward; x (B, F N, D) or (B, N F, D)."""
        x = x + self.attn2(self.norm2(x), rotary_emb, attention_mask, text_kv)
        return x + self.ff(self.norm3(x))
