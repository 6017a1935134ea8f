"""Normalisation and attention, with the attention kernel chosen by name through diffusers' dispatcher.

B batch, N image tokens, L text tokens, D width, H heads, E head width.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from dianjing.dit.rope import apply_rotary_emb

EPS = 1e-6
SMALL_ATTENTION = 2**15  # of a head: queries x keys


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose sums run in float32 whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight is None or weight.dtype == x.dtype:
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps).to(x.dtype)
        return F.layer_norm(x.float(), self.normalized_shape, weight.float(), bias.float(), self.eps).to(x.dtype)


class KeyValue(NamedTuple):
    """Normalised keys, and values, both (B, L, H, E)."""

    key: Tensor
    value: Tensor


def is_faster_in_float32(query: Tensor, key: Tensor) -> bool:
    """Backwards over few scores, torch's kernel for a CPU takes up to six times as long in bfloat16 as in float32."""
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and torch.is_grad_enabled()
        and query.shape[1] * key.shape[1] <= SMALL_ATTENTION
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **dispatch_kwargs: Any) -> Tensor:
    """Queries (B, N, H, E), keys and values (B, L, H, E) -> (B, N, H, E); settings as the dispatcher takes them."""
    if not is_faster_in_float32(query, key):
        return dispatch_attention_fn(query, key, value, attn_mask=mask, **dispatch_kwargs)
    mask = None if mask is None else mask.float()
    with torch.autocast("cpu", enabled=False):
        states = dispatch_attention_fn(query.float(), key.float(), value.float(), attn_mask=mask, **dispatch_kwargs)
    return states.to(query.dtype)


class DiTAttnProcessor:
    """Attention with normalised queries and keys, both turned by RoPE where they are image tokens."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Tensor,
        rotary_emb: Tensor,
        attention_mask: Tensor | None = None,
        key_value: KeyValue | None = None,
    ) -> Tensor:
        if key_value is None:
            query, key, value = attn.project_qkv(hidden_states, rotary_emb)
        else:
            query, (key, value) = attn.project_query(hidden_states, rotary_emb), key_value
            query = query.reshape(len(key), -1, *query.shape[2:])  # the frames of a clip share its text
        states = attend(
            query,
            key,
            value,
            attention_mask,
            backend=self._attention_backend,
            # text is on every rank, so only the image tokens' own attention is split
            parallel_config=None if attn.is_cross_attention else self._parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](states.reshape(*hidden_states.shape[:2], -1)))


class Attention(nn.Module, AttentionModuleMixin):
    """Self-attention, or attention to the keys and values of a text of width `text_dim`."""

    _default_processor_cls = DiTAttnProcessor
    _available_processors = (DiTAttnProcessor,)

    def __init__(self, width: int, *, heads: int, head_dim: int, text_dim: int | None = None):
        super().__init__()
        self.heads = heads
        self.is_cross_attention = text_dim is not None
        self.use_bias = True
        source_dim = width if text_dim is None else text_dim
        self.to_q = nn.Linear(width, heads * head_dim)
        self.to_k = nn.Linear(source_dim, heads * head_dim)
        self.to_v = nn.Linear(source_dim, heads * head_dim)
        self.norm_q = LayerNorm(head_dim, eps=EPS)
        self.norm_k = LayerNorm(head_dim, eps=EPS)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, width), nn.Identity()])
        self.set_processor(self._default_processor_cls())

    def _split_heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1))  # (B, N, H, E)

    def _norm_and_rotate(self, states: Tensor, norm: nn.Module, rotary_emb: Tensor | None) -> Tensor:
        # float32 from the norm to the end of the turn: one rounding instead of three
        finished = norm(self._split_heads(states).float())
        return (finished if rotary_emb is None else apply_rotary_emb(finished, rotary_emb)).to(states.dtype)

    def project_query(self, hidden_states: Tensor, rotary_emb: Tensor) -> Tensor:
        """Queries (B, N, H, E) of image tokens (B, N, D)."""
        return self._norm_and_rotate(self.to_q(hidden_states), self.norm_q, rotary_emb)

    def project_key_value(self, text: Tensor) -> KeyValue:
        """Of text tokens (B, L, T)."""
        key, value = self.to_kv(text).chunk(2, -1) if self.fused_projections else (self.to_k(text), self.to_v(text))
        return KeyValue(self._norm_and_rotate(key, self.norm_k, None), self._split_heads(value))

    def project_qkv(self, hidden_states: Tensor, rotary_emb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, N, H, E) of image tokens (B, N, D)."""
        if self.fused_projections:
            query, key, value = self.to_qkv(hidden_states).chunk(3, -1)
        else:
            query, key, value = self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        query, key = (
            self._norm_and_rotate(query, self.norm_q, rotary_emb),
            self._norm_and_rotate(key, self.norm_k, rotary_emb),
        )
        return query, key, self._split_heads(value)

    def forward(
        self,
        hidden_states: Tensor,
        rotary_emb: Tensor,
        attention_mask: Tensor | None = None,
        key_value: KeyValue | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return self.processor(self, hidden_states, rotary_emb, attention_mask, key_value)
