"""Saving and loading optimizer state."""

import torch
from torch import nn

from dianjing.train.trainer.state_dict import get_optimizer_state, load_optimizer_state


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.later = nn.Linear(4, 4), nn.Linear(4, 4)


def advance(model, optimizer, *names):
    """Make a step on the named layers only."""
    x = torch.linspace(0, 1, 4)
    sum(getattr(model, name)(x).square().sum() for name in names).backward()
    optimizer.step()
    optimizer.zero_grad()


def make_adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def test_weight_without_a_gradient_so_far_starts_fresh_after_resuming():
    model = Pair()
    optimizer = make_adamw(model)
    advance(model, optimizer, "used")
    resumed = Pair()
    resumed.load_state_dict(model.state_dict())
    again = make_adamw(resumed)
    load_optimizer_state(resumed, again, get_optimizer_state(model, optimizer))
    for one, its_optimizer in ((model, optimizer), (resumed, again)):
        advance(one, its_optimizer, "used", "later")
    expected, actual = get_optimizer_state(model, optimizer), get_optimizer_state(resumed, again)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
