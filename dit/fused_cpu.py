"""Fused blocks: `DiTBlock` for inference in bfloat16 on a CPU, in as few passes over memory as kernels allow.

oneDNN adds a bias, a GELU or the residual to the float32 result of a matrix product before it is rounded; the three
projections of a narrow self-attention become one product, their norms and rotations one pass. Training, adapters,
hooks, chunks, `torch.compile` (which finds most of this by itself) and other devices use `DiTBlock.forward`.

B batch, N image tokens, D width, H heads, E head width.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.activations import GELU
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, DiTAttnProcessor, LayerNorm, add_image_attention
from dianjing.dit.blocks import AdaLayerNormShift, BlockConditioning, DiTBlock, expand_to_frames
from dianjing.dit.feed_forward import FeedForward
from dianjing.dit.rope import apply_rotary_emb

FUSIBLE_TYPES = {
    *(DiTBlock, AdaLayerNormShift, LayerNorm, Attention, FeedForward, GELU),
    *(nn.ModuleList, nn.Linear, nn.Identity, nn.Dropout),
}
MAX_FUSED_QKV = 2**20  # elements of one projection; fusing wider ones gains nothing


class LinearParams(NamedTuple):
    """Weight and bias of a linear layer or a norm."""

    weight: Tensor
    bias: Tensor


class FusedBlock(NamedTuple):
    """Weights of a block for `fused_forward`, valid until the block's weights change."""

    heads: int
    skip: tuple[LinearParams, LinearParams] | None  # norm and linear layer, of blocks with a skip
    norm1: LinearParams
    qkv: tuple[LinearParams, ...]  # one fused projection, or three
    norm_qk: tuple[LinearParams, ...]  # float32: (2, 1, E) for a fused projection, or (E,) for each of two
    out1: LinearParams
    norm2: LinearParams
    query: LinearParams
    norm_query: LinearParams  # float32
    out2: LinearParams
    norm3: LinearParams
    up: LinearParams
    approximate: str  # of the GELU
    down: LinearParams


@functools.cache
def _has_bf16_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def can_run_fused(x: Tensor) -> bool:
    """Return True if fused blocks can run on inputs like x in the present modes of torch."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _has_bf16_kernels()
    )


def _is_fusible(module: nn.Module) -> bool:
    """Return True if a module is of a known class, in bfloat16, and nothing has wrapped, hooked or replaced it."""
    if "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
        return False  # by offloading, casting or a cache
    if module._compiled_call_impl is not None:
        return False
    if isinstance(module, Attention):
        processor = module.processor
        if module.fused_projections or type(processor) is not DiTAttnProcessor or processor._parallel_config:
            return False
        if processor._attention_backend not in (None, AttentionBackendName.NATIVE):
            return False
    if isinstance(module, FeedForward) and module.chunk_size is not None:
        return False
    # quantized and sharded weights, and layers of adapters, are of other types
    weights = module.parameters(recurse=False)
    return type(module) in FUSIBLE_TYPES and all(type(p) is nn.Parameter and p.dtype == torch.bfloat16 for p in weights)


def _get_params(module: nn.Module) -> LinearParams:
    """Return weight and bias of a layer."""
    return LinearParams(module.weight, module.bias)


def _get_float_params(*norms: nn.Module) -> LinearParams:
    """Return weights and biases of one norm (E,), or of several in one tensor (len(norms), 1, E), in float32."""
    if len(norms) == 1:
        return LinearParams(norms[0].weight.float(), norms[0].bias.float())
    weight = torch.stack([norm.weight for norm in norms]).float().unsqueeze(1)  # (2, 1, E)
    return LinearParams(weight, torch.stack([norm.bias for norm in norms]).float().unsqueeze(1))


def _fuse_block(block: DiTBlock) -> FusedBlock:
    """Collect the weights of a block."""
    attn1, attn2, up = block.attn1, block.attn2, block.ff.net[0]
    qkv: tuple[LinearParams, ...] = tuple(map(_get_params, (attn1.to_q, attn1.to_k, attn1.to_v)))
    norm_qk: tuple[LinearParams, ...] = (_get_float_params(attn1.norm_q), _get_float_params(attn1.norm_k))
    if qkv[0].weight.numel() <= MAX_FUSED_QKV:
        qkv = (LinearParams(torch.cat([each.weight for each in qkv]), torch.cat([each.bias for each in qkv])),)
        norm_qk = (_get_float_params(attn1.norm_q, attn1.norm_k),)
    return FusedBlock(
        heads=attn1.heads,
        skip=(_get_params(block.skip_norm), _get_params(block.skip_linear)) if hasattr(block, "skip_linear") else None,
        norm1=_get_params(block.norm1.norm),
        qkv=qkv,
        norm_qk=norm_qk,
        out1=_get_params(attn1.to_out[0]),
        norm2=_get_params(block.norm2),
        query=_get_params(attn2.to_q),
        norm_query=_get_float_params(attn2.norm_q),
        out2=_get_params(attn2.to_out[0]),
        norm3=_get_params(block.norm3),
        up=_get_params(up.proj),
        approximate=up.approximate,
        down=_get_params(block.ff.net[2]),
    )


def fuse_blocks(blocks: Iterable[DiTBlock]) -> tuple[FusedBlock, ...] | None:
    """Return the weights of blocks for `fused_forward`, or None if any part of them cannot be fused."""
    blocks = list(blocks)
    can_fuse = all(isinstance(block.ff.net[0], GELU) and all(map(_is_fusible, block.modules())) for block in blocks)
    return tuple(map(_fuse_block, blocks)) if can_fuse else None


def _linear(x: Tensor, layer: LinearParams) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


def _linear_add(x: Tensor, layer: LinearParams, residual: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, layer.weight, layer.bias, "add")


def _norm(x: Tensor, norm: LinearParams) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, EPS)


def _norm_and_rotate(states: Tensor, norm: LinearParams, rotary_emb: Tensor) -> Tensor:
    """Normalize and rotate queries or keys (B, N, H, E)."""
    return apply_rotary_emb(_norm(states.float(), norm), rotary_emb).to(states.dtype)


def _norm_and_rotate_qk(states: Tensor, norm: LinearParams, rotary_emb: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize and rotate queries and keys in one tensor (B, N, 2, H, E)."""
    normed = F.layer_norm(states.float(), states.shape[-1:], None, None, EPS)
    rotated = apply_rotary_emb(torch.addcmul(norm.bias, normed, norm.weight), rotary_emb.unsqueeze(1))
    query, key = rotated.to(states.dtype).unbind(2)
    return query, key


def fused_forward(
    block: FusedBlock,
    x: Tensor,
    conditioning: BlockConditioning,
    rotary_emb: Tensor,
    attention_mask: Tensor | None,
    skip: Tensor | None,
) -> Tensor:
    """Compute `DiTBlock.forward` with complex rotary embeddings: (B F, N, D) -> (B F, N, D)."""
    if block.skip is not None:
        assert skip is not None
        x = _linear(_norm(torch.cat([x, skip], dim=-1), block.skip[0]), block.skip[1])
    states = _norm(x, block.norm1).add_(expand_to_frames(conditioning.shift, len(x)).unsqueeze(1))
    shape = (*x.shape[:2], block.heads, -1)
    if len(block.qkv) == 1:
        fused_qkv = _linear(states, block.qkv[0]).view(*x.shape[:2], 3, block.heads, -1)
        query, key = _norm_and_rotate_qk(fused_qkv[:, :, :2], block.norm_qk[0], rotary_emb)
        value = fused_qkv[:, :, 2]
    else:
        query, key, value = (_linear(states, layer).view(shape) for layer in block.qkv)
        query, key = (
            _norm_and_rotate(each, norm, rotary_emb) for each, norm in zip((query, key), block.norm_qk, strict=True)
        )
    x = _linear_add(dispatch_attention_fn(query, key, value).flatten(2), block.out1, x)

    query = _norm_and_rotate(_linear(_norm(x, block.norm2), block.query).view(shape), block.norm_query, rotary_emb)
    key, value = conditioning.key_value
    query = query.reshape(len(key), -1, *query.shape[2:])  # frames of a clip share its text
    states = dispatch_attention_fn(query, key, value, attn_mask=attention_mask)
    states = add_image_attention(states, query, conditioning.image_prompts)
    x = _linear_add(states.reshape(*x.shape[:2], -1), block.out2, x)

    hidden = torch.ops.mkldnn._linear_pointwise(_norm(x, block.norm3), *block.up, "gelu", [], block.approximate)
    return _linear_add(hidden, block.down, x)
