"""What an optimizer knows, taken up again."""

import torch
from torch import nn

from dianjing.train.trainer.state_dict import get_optimizer_state, load_optimizer_state


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.later = nn.Linear(4, 4), nn.Linear(4, 4)


def advance(model, optimizer, *names):
    """A step on the layers that are named alone."""
    x = torch.linspace(0, 1, 4)
    sum(getattr(model, name)(x).square().sum() for name in names).backward()
    optimizer.step()
    optimizer.zero_grad()


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def test_weight_without_a_gradient_yet_begins_after_resuming_as_it_would_have_without():
    model = Pair()
    optimizer = optimizer_of(model)
    advance(model, optimizer, "used")
    resumed = Pair()
    resumed.load_state_dict(model.state_dict())
    again = optimizer_of(resumed)
    load_optimizer_state(resumed, again, get_optimizer_state(model, optimizer))
    for one, its in ((model, optimizer), (resumed, again)):
        advance(one, its, "used", "later")
    kept, found = get_optimizer_state(model, optimizer), get_optimizer_state(resumed, again)
    assert kept.keys() == found.keys()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
