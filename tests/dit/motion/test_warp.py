"""A picture moved by what a motion field says."""

import pytest
import torch

from dianjing.dit.motion.flow_field import grid_points
from dianjing.dit.motion.warp import MotionTrack, identity_warp, push_pull_inpaint, warp_regions

SIDE, FRAMES, SPAN = 16, 2, 5


def shifted(*ways):
    """For each region a way back (x, y) in pixels that holds in the second frame; in the first nothing has moved."""
    found = torch.zeros(1, len(ways), FRAMES, SPAN, SPAN, 2)
    found[0, :, 1] = torch.tensor(ways)[:, None, None] / SIDE
    return found


@pytest.fixture
def scene():
    """A flat background, and a square whose pixels are all different."""
    picture = torch.full((1, 3, SIDE, SIDE), 0.5)
    picture[:, :, 6:9, 4:7] = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[:, :, 6:9, 4:7] = 1
    return picture, mask


ASKED = torch.tensor([[True]])


def test_a_region_is_seen_where_it_went_and_the_background_where_it_was(scene):
    picture, mask = scene
    moved = warp_regions(picture, mask, shifted((-5.0, 2.0)), ASKED)
    torch.testing.assert_close(moved.frames[:, 0], picture)
    torch.testing.assert_close(moved.coverage[:, 0], mask, atol=1e-5, rtol=0)
    expected = torch.full_like(picture, 0.5)
    expected[:, :, 4:7, 9:12] = picture[:, :, 6:9, 4:7]
    torch.testing.assert_close(moved.frames[:, 1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.coverage[:, 1], mask.roll((-2, 5), dims=(-2, -1)), atol=1e-5, rtol=0)


def test_a_region_that_is_not_asked_stays_and_nothing_is_taken_away(scene):
    picture, mask = scene
    moved = warp_regions(picture, mask, shifted((-5.0, 0.0)), ~ASKED)
    torch.testing.assert_close(moved.frames, identity_warp(picture, 1, FRAMES).frames)
    assert not moved.coverage.any()


def test_each_region_goes_its_own_way_and_the_later_one_lies_on_top(scene):
    picture, mask = scene
    other = mask.roll(5, dims=-1)
    picture = torch.where(other > 0, 0.9, picture)
    moved = warp_regions(
        picture, torch.cat([mask, other], dim=1), shifted((-2.0, 0.0), (2.0, 0.0)), torch.ones(1, 2).bool()
    )
    assert (moved.frames[0, 1, :, 6:9, 7:10] - 0.9).abs().max() < 1e-5  # the second's place, where both would be
    torch.testing.assert_close(moved.frames[0, 1, :, 6:9, 6], picture[0, :, 6:9, 4], atol=1e-5, rtol=0)


def test_a_turn_by_a_field_that_is_told_at_few_points_is_exact():
    """A quarter turn about the middle is linear, so a few points tell it; every pixel comes from where it was."""
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, SIDE, SIDE)
    away = grid_points(SPAN) - 0.5
    back = torch.stack([away[:, 1], -away[:, 0]], dim=-1) - away
    ways = torch.zeros(1, 1, FRAMES, SPAN, SPAN, 2)
    ways[0, 0, 1] = back.view(SPAN, SPAN, 2)
    moved = warp_regions(picture, mask, ways, ASKED)
    torch.testing.assert_close(moved.frames[:, 1], picture.rot90(-1, dims=(-2, -1)), atol=1e-4, rtol=0)


def test_what_is_hidden_is_filled_from_around_and_the_rest_stays():
    picture = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE).clone()  # a slope to the right
    hidden = torch.zeros(1, 1, SIDE, SIDE)
    hidden[..., 6:10, 6:10] = 1
    spoilt = torch.where(hidden > 0, 5.0, picture)
    filled = push_pull_inpaint(spoilt, hidden)
    near = torch.nn.functional.max_pool2d(hidden, 3, stride=1, padding=1).expand_as(picture) > 0
    assert torch.equal(filled[~near], picture[~near])
    assert (filled - picture).abs().max() < 0.2


def test_a_path_of_two_ways_is_their_sum_and_the_picture_is_cut_from_once(scene):
    """What moves on from where it has come is as sharp as the picture: half a pixel twice leaves no trace."""
    picture, mask = scene
    path = MotionTrack.from_masks(mask, grid_size=SPAN)
    half = shifted((-2.5, 1.0))
    path = MotionTrack(
        mask, warp_regions(picture, mask, path.compose(half), ASKED).coverage[:, 1], path.compose(half)[:, :, 1]
    )
    moved = warp_regions(picture, mask, path.compose(shifted((-2.5, 1.0))), ASKED)
    expected = torch.full_like(picture, 0.5)
    expected[:, :, 4:7, 9:12] = picture[:, :, 6:9, 4:7]
    torch.testing.assert_close(moved.frames[:, 1], expected, atol=1e-4, rtol=0)


def test_middles_of_regions_come_along_with_a_quarter_turn_and_spreads_are_those_of_now():
    away = grid_points(SPAN) - 0.5
    back = torch.stack([away[:, 1], -away[:, 0]], dim=-1) - away
    before = torch.zeros(1, 1, SIDE, SIDE)
    before[..., 6:8, 2:6] = 1  # lies
    now = before.rot90(-1, dims=(-2, -1))  # stands
    path = MotionTrack(before, now, back.view(1, 1, SPAN, SPAN, 2))
    x, y = 4 / SIDE, 7 / SIDE
    lying, standing = (
        MotionTrack.from_masks(before, grid_size=SPAN).compute_moments()[0, 0],
        path.compute_moments()[0, 0],
    )
    torch.testing.assert_close(lying[:2], torch.tensor([x, y]))
    torch.testing.assert_close(standing[:2], torch.tensor([1 - y, x]), atol=0.01, rtol=0)
    torch.testing.assert_close(standing[2:], lying[2:].flip(0))
