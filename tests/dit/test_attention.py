"""Attention in bfloat16 on a CPU, against float64."""

import pytest
import torch
from torch import Tensor

from dianjing.dit import attention
from dianjing.dit.attention import attend


def compute_exact_gradients(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    query, key, value = (each.detach().double().transpose(1, 2).requires_grad_() for each in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    states = (scores if mask is None else scores + mask).softmax(-1) @ value
    states.sin().sum().backward()
    return torch.cat([each.grad.transpose(1, 2).flatten() for each in (query, key, value)])


def compute_gradients(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    inputs = [each.detach().clone().requires_grad_() for each in (query, key, value)]
    states = attend(*inputs, mask)
    assert states.dtype == torch.bfloat16
    states.float().sin().sum().backward()
    return torch.cat([each.grad.double().flatten() for each in inputs])


def make_inputs(*, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, count, 3, 8, generator=generator) for count in (queries, keys, keys))
    return query.bfloat16(), key.bfloat16(), value.bfloat16()


@pytest.mark.parametrize("under_autocast", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
def test_gradients_over_few_scores_are_as_exact_as_bfloat16_allows(is_masked, under_autocast):
    inputs = make_inputs(queries=5, keys=7)
    mask = torch.tensor([0.0] * 5 + [-torch.inf] * 2).view(1, 1, 1, 7).bfloat16() if is_masked else None
    expected = compute_exact_gradients(*inputs, mask if mask is None else mask.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
        actual = compute_gradients(*inputs, mask)
    assert (actual - expected).norm() < 3e-3 * expected.norm()  # the rounding of the gradients themselves


def test_only_training_over_few_scores_runs_in_float32(monkeypatch):
    dtypes = []

    def dispatch(query, key, value, **settings):
        dtypes.append(query.dtype)
        return query

    monkeypatch.setattr(attention, "dispatch_attention_fn", dispatch)
    few, many = make_inputs(queries=5, keys=7), make_inputs(queries=512, keys=512)
    attend(*few, None)
    attend(*many, None)
    with torch.no_grad():
        attend(*few, None)
    assert dtypes == [torch.float32, torch.bfloat16, torch.bfloat16]
