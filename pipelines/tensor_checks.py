"""Checks of tensors: those that a call passes in place of prompts and noise, and those that a model computes.

B batch of images or videos, L text tokens, T text width; latents are B C Y X or B C F Y X.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dianjing.errors import DianjingError


def check_tensor(value: object, name: str) -> None:
    """Raise DianjingError unless `value` is a torch tensor without NaN and infinity."""
    if not isinstance(value, torch.Tensor):
        raise DianjingError("tensor_expected", name=name, type_name=f"{type(value).__module__}.{type(value).__name__}")
    if not bool(torch.isfinite(value).all()):
        raise DianjingError("tensor_not_finite", name=name)


def check_computed(values: Tensor, part: nn.Module) -> None:
    """Raise DianjingError for values with NaN or infinity, which a part of the model has computed."""
    if not bool(torch.isfinite(values).all()):
        dtype = str(part.dtype).removeprefix("torch.")
        raise DianjingError("result_not_finite", part=type(part).__name__, dtype=dtype)


def check_embeds(
    embeds: Tensor | None,
    attention_mask: Tensor | None,
    name: str,
    *,
    max_length: int,
    embed_dim: int,
    num_prompts: int | None,
) -> int | None:
    """Check prompt embeddings (B, max_length, embed_dim) and their mask (B, max_length); return B, or None for None."""
    mask_name = name.replace("embeds", "attention_mask")
    if embeds is None and attention_mask is None:
        return None
    if embeds is None or attention_mask is None:
        first, second = (mask_name, name) if embeds is None else (name, mask_name)
        raise DianjingError("embeds_incomplete", name=first, missing=second)
    check_tensor(embeds, name)
    check_tensor(attention_mask, mask_name)
    if embeds.ndim != 3 or tuple(embeds.shape[1:]) != (max_length, embed_dim):
        expected = f"(batch, {max_length}, {embed_dim})"
        raise DianjingError("tensor_shape", name=name, shape=str(tuple(embeds.shape)), expected=expected)
    if tuple(attention_mask.shape) != tuple(embeds.shape[:2]):
        shape, expected = str(tuple(attention_mask.shape)), str(tuple(embeds.shape[:2]))
        raise DianjingError("tensor_shape", name=mask_name, shape=shape, expected=expected)
    if num_prompts is not None and embeds.shape[0] != num_prompts:
        raise DianjingError("embeds_count", name=name, count=embeds.shape[0], num_prompts=num_prompts)
    return embeds.shape[0]


def check_latents(latents: Tensor | None, shape: Sequence[int]) -> None:
    """Raise DianjingError for latents that are no tensor, not finite or of another shape."""
    if latents is None:
        return
    check_tensor(latents, "latents")
    if tuple(latents.shape) != tuple(shape):
        raise DianjingError("tensor_shape", name="latents", shape=str(tuple(latents.shape)), expected=str(tuple(shape)))
