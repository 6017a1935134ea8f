"""A first frame moved by what a motion field says."""

import pytest
import torch

from dianjing.dit.motion_field import Origins
from dianjing.dit.moving import Mover, take

ROWS, COLUMNS, FRAMES, CHANNELS = 4, 8, 2, 3


def origins(*, columns_left=0, rest=0.0, asked=(True,)):
    """Places of the second frame come from so many columns to their left, and a part of one."""
    row, column = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    still = (row * COLUMNS + column).flatten()
    moved = (row * COLUMNS + (column - columns_left).clamp(min=0)).flatten()
    nearest = torch.stack([still, moved]).expand(1, len(asked), -1, -1)
    left = torch.zeros(*nearest.shape, 2)
    left[:, :, 1, :, 0] = -rest
    return Origins(nearest, left, torch.tensor([asked]))


@pytest.fixture
def scene():
    """A flat background, and a region of two by two latents that are all different."""
    first = torch.ones(1, CHANNELS, ROWS, COLUMNS)
    first[:, :, 1:3, 2:4] = torch.randn(1, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, ROWS, COLUMNS)
    mask[:, :, 1:3, 2:4] = 1
    return first, mask


@torch.no_grad()
def test_a_region_is_seen_where_it_went_and_the_background_where_it_was(scene):
    first, mask = scene
    moved = Mover(CHANNELS)(first, mask, origins(columns_left=3))
    torch.testing.assert_close(moved.frames[:, 0], first)
    expected = torch.ones_like(first)
    expected[:, :, 1:3, 5:7] = first[:, :, 1:3, 2:4]
    torch.testing.assert_close(moved.frames[:, 1], expected)
    torch.testing.assert_close(moved.covered[:, 1], mask.roll(3, dims=-1))


@torch.no_grad()
def test_a_region_that_is_not_asked_stays_and_nothing_is_taken_away(scene):
    first, mask = scene
    moved = Mover(CHANNELS)(first, mask, origins(columns_left=3, asked=(False,)))
    torch.testing.assert_close(moved.frames, first.unsqueeze(1).expand(-1, FRAMES, -1, -1, -1))
    assert not moved.covered.any()


@torch.no_grad()
def test_regions_that_meet_are_both_seen(scene):
    first, mask = scene
    masks = torch.cat([mask, mask.roll(2, dims=-1)], dim=1)
    first = torch.where(masks[:, 1:] > 0, 5.0, first)
    moved = Mover(CHANNELS)(first, masks, origins(columns_left=1, asked=(True, False)))
    torch.testing.assert_close(moved.frames[:, 1, :, 1:3, 3:5], first[:, :, 1:3, 2:4])
    torch.testing.assert_close(moved.frames[:, 1, :, 1:3, 5], first[:, :, 1:3, 5])


def test_it_learns_to_cut_between_latents():
    """Latents are the mean and the slope of eight numbers each; moved by a part of one, linear in those around."""
    torch.manual_seed(0)
    mover = Mover(2)
    optimizer = torch.optim.Adam(mover.parameters(), lr=0.01)
    ramp = torch.linspace(-1, 1, 8)

    def latents(line):  # (N, 8 columns, 8) -> (N, 2, rows, columns)
        both = torch.stack([line.mean(dim=-1), (line * ramp).mean(dim=-1)], dim=1)
        return both.unsqueeze(2).expand(-1, -1, ROWS, -1)

    def error(shift):
        smooth = torch.randn(1, COLUMNS * 8 + 16).cumsum(dim=1) / 4
        now, then = (smooth[:, at : at + COLUMNS * 8].unflatten(1, (COLUMNS, 8)) for at in (8, 8 - shift))
        moved = mover(latents(now), torch.ones(1, 1, ROWS, COLUMNS), origins(rest=shift / 8))
        return (moved.frames[:, 1, ..., 1:-1] - latents(then)[..., 1:-1]).square().mean()

    before = sum(error(3).item() for _ in range(50))
    for _ in range(300):
        optimizer.zero_grad()
        sum(error(shift) for shift in (0, 1, 2, 4)).backward()
        optimizer.step()
    assert sum(error(3).item() for _ in range(50)) < 0.1 * before  # a part that it was not taught


@torch.no_grad()
def test_what_is_taken_is_what_lies_at_the_places():
    source = torch.randn(2, 1, 5, 3)
    index = torch.randint(0, 5, (2, 4, 6, 7))
    taken = take(source, index)
    assert taken.shape == (2, 4, 6, 7, 3)
    assert torch.equal(taken[1, 2, 3, 4], source[1, 0, index[1, 2, 3, 4]])
