"""Where frames are taught to look in the first one."""

import pytest
import torch

from dianjing.dit.first_frame import HEAD_DIM, KINDS, FirstFrameAttention, place_rotation
from dianjing.dit.moving import Moved
from dianjing.dit.rope import rotate
from dianjing.train.tracking import Tracking, error_of_ways

ROWS, COLUMNS = 4, 6
SIZES = {"channels": 4, "max_regions": 1, "patch_size": 2, "heads": 2}


def own_places() -> torch.Tensor:
    """(1, 1, Y, X, 2)"""
    y, x = torch.meshgrid(torch.arange(float(ROWS)), torch.arange(float(COLUMNS)), indexing="ij")
    return torch.stack([x, y], dim=-1)[None, None]


@pytest.fixture
def looking():
    """A look-up whose heads look sharply at a place so many columns to the left of their own."""

    def make(shift: int) -> tuple[FirstFrameAttention, Tracking]:
        torch.manual_seed(0)
        lookup = FirstFrameAttention(16, **SIZES)
        tracking = Tracking(lookup)
        one = torch.tensor([20.0, 0.0]).repeat(HEAD_DIM // 2).view(1, 1, 1, HEAD_DIM)
        back = place_rotation(1, 8)[shift].clone()
        back[..., 1] *= -1
        with torch.no_grad():
            for layer in (lookup.to_q, lookup.to_k):
                layer.weight.zero_()
            lookup.to_k.bias.copy_(one.flatten().repeat(2))
            lookup.to_q.bias.copy_(rotate(one.clone(), back.view(1, 1, -1, 2)).flatten().repeat(8))
        return lookup, tracking

    return make


def look(lookup: FirstFrameAttention, *, given: bool = True) -> None:
    latents, tokens = torch.zeros(1, 4, 1, ROWS, COLUMNS), torch.zeros(1, ROWS * COLUMNS // 4, 16)
    first = torch.ones(1, 4, ROWS, COLUMNS) * given
    still = Moved(first.unsqueeze(1), torch.zeros(1, 1, 1, ROWS, COLUMNS))
    lookup(
        latents, latents, tokens, lookup.look(first, torch.zeros(1, 1, ROWS, COLUMNS), still), torch.zeros(1, 2 + KINDS)
    )


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_error_is_least_where_the_sources_are_what_is_looked_at(looking, shift):
    lookup, tracking = looking(shift)
    errors = []
    for asked in range(4):
        sources = own_places()
        sources[..., 0] -= asked
        sources[sources[..., 0] < 0] = torch.nan
        look(lookup)
        errors.append(tracking.error(sources).item())
    assert min(range(4), key=errors.__getitem__) == shift
    assert errors[shift] < 0.1
    assert min(error for asked, error in enumerate(errors) if asked != shift) > 1


@torch.no_grad()
def test_between_two_places_both_count_by_how_near_they_are(looking):
    """Looking sharply at one place, the error of a source between two is that of the other, by its share."""
    lookup, tracking = looking(0)
    errors = []
    for part in (0.3, 0.6, 0.9):
        sources = torch.full((1, 1, ROWS, COLUMNS, 2), torch.nan)
        sources[0, 0, 1, 3] = torch.tensor([3.0 - part, 1.0])
        look(lookup)
        errors.append(tracking.error(sources).item() / part)
    assert errors[0] > 1
    assert errors == pytest.approx([errors[0]] * 3, rel=0.01)


@torch.no_grad()
def test_what_nobody_knows_and_first_frames_that_are_hidden_count_for_nothing(looking):
    lookup, tracking = looking(0)
    look(lookup)
    assert tracking.error(torch.full((1, 1, ROWS, COLUMNS, 2), torch.nan)).item() == 0
    look(lookup, given=False)
    assert tracking.error(own_places() + 1).item() == 0


def test_only_the_first_half_of_the_heads_is_taught(looking):
    lookup, tracking = looking(0)
    look(lookup)
    sources = own_places()
    sources[..., 0] += 1
    tracking.error(sources).backward()
    first, second = lookup.to_k.weight.grad.flatten(1).abs().sum(dim=1).view(2, HEAD_DIM).sum(dim=1)
    assert first > 0
    assert second == 0


def test_ways_count_in_latents_where_they_are_asked_for():
    ways = torch.tensor([0.25, 0.5]).expand(1, 1, 3, ROWS * COLUMNS, 2)  # a quarter of the width, half of the height
    asked = torch.full((1, 1, 3, ROWS, COLUMNS, 2), torch.nan)
    asked[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.5])
    assert error_of_ways(ways, asked).item() == 0
    asked[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.25])
    quarter = 0.25 * ROWS  # in latents; mean with the other axis, which is right; beta 0.1
    assert error_of_ways(ways, asked).item() == pytest.approx((quarter - 0.05) / 2)
