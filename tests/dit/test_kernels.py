"""The joined kernels of the CPU: used where they hold, equal to the plain way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dianjing.dit import kernels

pytestmark = pytest.mark.skipif(not kernels._cpu_has_kernels(), reason="this CPU has no bfloat16 kernels")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(32, 32).bfloat16()


@pytest.fixture
def x():
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)).bfloat16()


def distance(got, exact):
    return float((got.float() - exact).norm() / exact.norm())


@torch.no_grad()
def test_joined_kernels_are_at_least_as_exact_as_separate_ones(layer, x):
    assert kernels._has_kernel(layer, x)
    plain = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    cases = [
        (kernels.linear(layer, x), layer(x), plain),
        (kernels.linear_add(layer, x, x), x + layer(x), x.float() + plain),
        (
            kernels.linear_gelu(layer, x, approximate="tanh"),
            F.gelu(layer(x), approximate="tanh"),
            F.gelu(plain, approximate="tanh"),
        ),
    ]
    for joined, separate, exact in cases:
        assert distance(joined, exact) < 1.05 * distance(separate, exact)


@torch.no_grad()
def test_a_hook_on_a_layer_still_runs(layer, x):
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    for call in (kernels.linear(layer, x), kernels.linear_add(layer, x, x)):
        assert call.shape == x.shape
    assert len(seen) == 2


def test_gradients_flow_where_they_are_asked_for(layer, x):
    kernels.linear_gelu(layer, x, approximate="tanh").sum().backward()
    assert layer.weight.grad is not None


@torch.no_grad()
def test_autocast_and_other_dtypes_take_the_plain_way(layer, x):
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels._has_kernel(layer, x)
    assert not kernels._has_kernel(layer.float(), x.float())
