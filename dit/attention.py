"""Attention and its normalization; diffusers' dispatcher chooses the kernel by name.

B batch, N image tokens, L text tokens, D width, H heads, E head width, T text width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from dianjing.dit.rope import apply_rotary_emb
from dianjing.errors import DianjingError

EPS = 1e-6
SMALL_ATTENTION = 2**15  # queries x keys of a head


class LayerNorm(nn.LayerNorm):
    """LayerNorm that computes in float32 for any dtype of its input: (..., D) -> (..., D)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight is None or weight.dtype == x.dtype:
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps).to(x.dtype)
        return F.layer_norm(x.float(), self.normalized_shape, weight.float(), bias.float(), self.eps).to(x.dtype)


class KeyValue(NamedTuple):
    """Normalized keys, and values, both (B, L, H, E)."""

    key: Tensor
    value: Tensor


def is_faster_in_float32(query: Tensor, key: Tensor) -> bool:
    """Return True if attention trains faster in float32 than in its bfloat16.

    The backward pass of torch's CPU kernel takes up to six times as long in bfloat16 if there are few scores.
    """
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and torch.is_grad_enabled()
        and query.shape[1] * key.shape[1] <= SMALL_ATTENTION
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **dispatch_kwargs: Any) -> Tensor:
    """Attend from queries (B, N, H, E) to keys and values (B, L, H, E): (B, N, H, E)."""
    if not is_faster_in_float32(query, key):
        return dispatch_attention_fn(query, key, value, attn_mask=mask, **dispatch_kwargs)
    mask = None if mask is None else mask.float()
    with torch.autocast("cpu", enabled=False):
        states = dispatch_attention_fn(query.float(), key.float(), value.float(), attn_mask=mask, **dispatch_kwargs)
    return states.to(query.dtype)


class ScaledKeyValue(NamedTuple):
    """Keys and values (B, L, H, E) of an image prompt, and the scale of what is attended to there."""

    key: Tensor
    value: Tensor
    scale: float


def add_image_attention(
    states: Tensor, query: Tensor, image_prompts: Sequence[ScaledKeyValue], **dispatch_kwargs: Any
) -> Tensor:
    """Add the attention of queries (B, N, H, E) to image prompts to that to the text: (B, N, H, E).

    Source: decoupled cross-attention, IP-Adapter (arXiv 2308.06721), Eq. 5.
    """
    for key, value, scale in image_prompts:
        states = states + scale * attend(query, key, value, None, **dispatch_kwargs)
    return states


class DiTAttnProcessor:
    """Attention with normalized queries and keys; those of image tokens are rotated by their positions."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Tensor,
        rotary_emb: Tensor,
        attention_mask: Tensor | None = None,
        key_value: KeyValue | None = None,
        image_prompts: Sequence[ScaledKeyValue] = (),
    ) -> Tensor:
        if key_value is None:
            query, key, value = attn.project_qkv(hidden_states, rotary_emb)
        else:
            query, (key, value) = attn.project_query(hidden_states, rotary_emb), key_value
            query = query.reshape(len(key), -1, *query.shape[2:])  # frames of a clip share its text
        dispatch_kwargs: dict[str, Any] = {
            "backend": self._attention_backend,
            # every rank has the whole text, so only self-attention is split
            "parallel_config": None if attn.is_cross_attention else self._parallel_config,
        }
        states = attend(query, key, value, attention_mask, **dispatch_kwargs)
        states = add_image_attention(states, query, image_prompts, **dispatch_kwargs)
        return attn.to_out[1](attn.to_out[0](states.reshape(*hidden_states.shape[:2], -1)))


class Attention(nn.Module, AttentionModuleMixin):
    """Self-attention of image tokens, or cross-attention to text of width `text_dim`."""

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

    def set_processor(self, processor: Any) -> None:
        """Set what computes the attention: a `DiTAttnProcessor`, or a callable with its arguments.

        Raises: DianjingError for a processor of diffusers, which knows diffusers' own attention class only.
        """
        cls = type(processor)
        if cls.__module__.startswith("diffusers."):
            raise DianjingError("attention_processor_unsupported", processor=cls.__name__)
        super().set_processor(processor)

    def _split_heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1))  # (B, N, H, E)

    def _norm_and_rotate(self, states: Tensor, norm: nn.Module, rotary_emb: Tensor | None) -> Tensor:
        """Split (B, N, H E) into heads, normalize and rotate: (B, N, H, E)."""
        normed = norm(self._split_heads(states).float())  # float32 to the end: one rounding instead of three
        return (normed if rotary_emb is None else apply_rotary_emb(normed, rotary_emb)).to(states.dtype)

    def project_query(self, hidden_states: Tensor, rotary_emb: Tensor) -> Tensor:
        """Project image tokens (B, N, D) to queries (B, N, H, E)."""
        return self._norm_and_rotate(self.to_q(hidden_states), self.norm_q, rotary_emb)

    def project_key_value(self, text: Tensor) -> KeyValue:
        """Project text tokens (B, L, T) to keys and values (B, L, H, E)."""
        key, value = self.to_kv(text).chunk(2, -1) if self.fused_projections else (self.to_k(text), self.to_v(text))
        return KeyValue(self._norm_and_rotate(key, self.norm_k, None), self._split_heads(value))

    def project_qkv(self, hidden_states: Tensor, rotary_emb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project image tokens (B, N, D) to queries, keys and values (B, N, H, E)."""
        if self.fused_projections:
            query, key, value = self.to_qkv(hidden_states).chunk(3, -1)
        else:
            query, key, value = self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        query = self._norm_and_rotate(query, self.norm_q, rotary_emb)
        key = self._norm_and_rotate(key, self.norm_k, rotary_emb)
        return query, key, self._split_heads(value)

    def forward(
        self,
        hidden_states: Tensor,
        rotary_emb: Tensor,
        attention_mask: Tensor | None = None,
        key_value: KeyValue | None = None,
        image_prompts: Sequence[ScaledKeyValue] = (),
    ) -> Tensor:
        """Attend from image tokens (B, N, D) to themselves, or to the keys and values of a text and pictures."""
        arguments = (self, hidden_states, rotary_emb, attention_mask, key_value)
        return self.processor(*arguments, image_prompts) if image_prompts else self.processor(*arguments)
