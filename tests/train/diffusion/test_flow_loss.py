"""The loss of predicted backward flow."""

import pytest
import torch

from dianjing.train.diffusion.objectives import flow_loss

ROWS, COLUMNS = 4, 6


def test_flow_loss_counts_latent_cells_where_the_target_is_known():
    predicted = torch.tensor([0.25, 0.5]).expand(
        1, 1, 3, ROWS * COLUMNS, 2
    )  # a quarter of the width, half of the height
    target = torch.full((1, 1, 3, ROWS, COLUMNS, 2), torch.nan)
    target[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.5])
    assert flow_loss(predicted, target).item() == 0
    target[0, 0, 1, 2, 3] = torch.tensor([0.25, 0.25])
    quarter = 0.25 * ROWS  # in latents; mean with the other axis, which is right; beta 0.1
    assert flow_loss(predicted, target).item() == pytest.approx((quarter - 0.05) / 2)
