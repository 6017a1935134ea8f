"""Linear layers joined with what follows them, where the CPU has one kernel for both.

oneDNN applies a GELU or an addition to the float32 sums of a half-precision product, before they
are rounded: less memory traffic and one rounding less. Training, `torch.compile` (which finds
these kernels by itself), other devices and layers that are wrapped or hooked take the plain way.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def _cpu_has_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _has_kernel(layer: nn.Module, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and type(layer) is nn.Linear  # a LoRA layer is not
        and type(layer.weight) is nn.Parameter  # a quantised or sharded weight is not
        and layer.weight.dtype == x.dtype
        and "forward" not in layer.__dict__  # offloading and casting replace it
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and _cpu_has_kernels()
    )


def linear_gelu(layer: nn.Module, x: Tensor, *, approximate: str) -> Tensor:
    """gelu(layer(x)): (..., in) -> (..., out)"""
    if _has_kernel(layer, x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], approximate)
    return F.gelu(layer(x), approximate=approximate)


def linear_add(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """residual + layer(x): (..., in) -> (..., out)"""
    if _has_kernel(layer, x):
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, layer.weight, layer.bias, "add")
    return residual + layer(x)
