"""Linear layers through oneDNN, joined with what follows them, for inference in bfloat16 on a CPU.

oneDNN applies a bias, a GELU or an addition to the float32 sums of a product before they are
rounded: less memory traffic and fewer roundings. Training, `torch.compile` (which finds these
kernels by itself), other devices and layers that are wrapped or hooked take the plain way.
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
        x.dtype is torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and type(layer) is nn.Linear  # a LoRA layer is not
        and "forward" not in layer.__dict__  # offloading and casting replace it
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and type(layer.weight) is nn.Parameter  # a quantised or sharded weight is not
        and layer.weight.dtype is torch.bfloat16
        and not torch.is_autocast_enabled("cpu")
        and _cpu_has_kernels()
    )


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x): (..., in) -> (..., out)"""
    if not _has_kernel(layer, x):
        return layer(x)
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


def linear_gelu(layer: nn.Module, x: Tensor, *, approximate: str) -> Tensor:
    """gelu(layer(x)): (..., in) -> (..., out)"""
    if not _has_kernel(layer, x):
        return F.gelu(layer(x), approximate=approximate)
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], approximate)


def linear_add(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """residual + layer(x): (..., in) -> (..., out)"""
    if not _has_kernel(layer, x):
        return residual + layer(x)
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, layer.weight, layer.bias, "add")
