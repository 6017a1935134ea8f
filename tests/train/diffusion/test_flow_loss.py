"""How far a motion field is from what is known."""

import pytest
import torch

from dianjing.train.diffusion.objectives import flow_loss

ROWS, COLUMNS = 4, 6


def test_ways_count_in_latents_where_they_are_asked_for():
    ways = torch.tensor([0.25, 0.5]).expand(1, 1, 3, ROWS * COLUMNS, 2)  # a quarter of the width, half of the height
    asked = torch.full((1, 1, 3, ROWS, COLUMNS, 2), torch.nan)
    asked[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.5])
    assert flow_loss(ways, asked).item() == 0
    asked[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.25])
    quarter = 0.25 * ROWS  # in latents; mean with the other axis, which is right; beta 0.1
    assert flow_loss(ways, asked).item() == pytest.approx((quarter - 0.05) / 2)
