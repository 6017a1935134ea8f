"""Regions of an image are warped along a flow."""

import pytest
import torch

from dianjing.dit.motion.flow_field import grid_points
from dianjing.dit.motion.warp import MotionTrack, identity_warp, push_pull_inpaint, warp_regions

SIDE, FRAMES, GRID = 16, 2, 5


def make_flow(*backward_flow):
    """Make uniform backward flow (x, y) in px for each region in the second frame, and none in the first."""
    flow = torch.zeros(1, len(backward_flow), FRAMES, GRID, GRID, 2)
    flow[0, :, 1] = torch.tensor(backward_flow)[:, None, None] / SIDE
    return flow


@pytest.fixture
def scene():
    """A flat background, and a square whose pixels are all different."""
    image = torch.full((1, 3, SIDE, SIDE), 0.5)
    image[:, :, 6:9, 4:7] = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[:, :, 6:9, 4:7] = 1
    return image, mask


ACTIVE = torch.tensor([[True]])


def test_a_region_moves_and_the_background_stays(scene):
    image, mask = scene
    warp = warp_regions(image, mask, make_flow((-5.0, 2.0)), ACTIVE)
    torch.testing.assert_close(warp.frames[:, 0], image)
    torch.testing.assert_close(warp.coverage[:, 0], mask, atol=1e-5, rtol=0)
    expected = torch.full_like(image, 0.5)
    expected[:, :, 4:7, 9:12] = image[:, :, 6:9, 4:7]
    torch.testing.assert_close(warp.frames[:, 1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(warp.coverage[:, 1], mask.roll((-2, 5), dims=(-2, -1)), atol=1e-5, rtol=0)


def test_a_region_moves_over_another_background(scene):
    image, mask = scene
    background = torch.rand(image.shape, generator=torch.Generator().manual_seed(2))
    warp = warp_regions(image, mask, make_flow((-5.0, 2.0)), ACTIVE, background=background)
    expected = background.clone()
    expected[:, :, 4:7, 9:12] = image[:, :, 6:9, 4:7]
    expected = expected.clamp(image.amin(), image.amax())
    torch.testing.assert_close(warp.frames[:, 1], expected, atol=1e-5, rtol=0)


def test_an_inactive_region_stays_and_covers_nothing(scene):
    image, mask = scene
    warp = warp_regions(image, mask, make_flow((-5.0, 0.0)), ~ACTIVE)
    torch.testing.assert_close(warp.frames, identity_warp(image, 1, FRAMES).frames)
    assert not warp.coverage.any()


def test_each_region_follows_its_flow_and_the_later_one_lies_on_top(scene):
    image, mask = scene
    other = mask.roll(5, dims=-1)
    image = torch.where(other > 0, 0.9, image)
    warp = warp_regions(
        image, torch.cat([mask, other], dim=1), make_flow((-2.0, 0.0), (2.0, 0.0)), torch.ones(1, 2).bool()
    )
    assert (warp.frames[0, 1, :, 6:9, 7:10] - 0.9).abs().max() < 1e-5  # the second region covers the first
    torch.testing.assert_close(warp.frames[0, 1, :, 6:9, 6], image[0, :, 6:9, 4], atol=1e-5, rtol=0)


def test_a_rotation_sampled_at_few_points_is_exact():
    """A quarter turn about the center is linear, so that a few points define it exactly."""
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, SIDE, SIDE)
    offset = grid_points(GRID) - 0.5
    back = torch.stack([offset[:, 1], -offset[:, 0]], dim=-1) - offset
    backward_flow = torch.zeros(1, 1, FRAMES, GRID, GRID, 2)
    backward_flow[0, 0, 1] = back.view(GRID, GRID, 2)
    warp = warp_regions(image, mask, backward_flow, ACTIVE)
    torch.testing.assert_close(warp.frames[:, 1], image.rot90(-1, dims=(-2, -1)), atol=1e-4, rtol=0)


def test_masked_pixels_are_filled_from_their_surroundings_and_the_rest_stays():
    image = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE).clone()  # a slope to the right
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:10, 6:10] = 1
    corrupted = torch.where(mask > 0, 5.0, image)
    filled = push_pull_inpaint(corrupted, mask)
    near = torch.nn.functional.max_pool2d(mask, 3, stride=1, padding=1).expand_as(image) > 0
    assert torch.equal(filled[~near], image[~near])
    assert (filled - image).abs().max() < 0.2


def test_composed_flows_add_up_and_the_image_is_resampled_once(scene):
    """Two shifts by fractions of a pixel that add up to whole pixels leave the image sharp."""
    image, mask = scene
    track = MotionTrack.from_masks(mask, grid_size=GRID)
    half = make_flow((-2.5, 1.0))
    track = MotionTrack(
        mask, warp_regions(image, mask, track.compose(half), ACTIVE).coverage[:, 1], track.compose(half)[:, :, 1]
    )
    warp = warp_regions(image, mask, track.compose(make_flow((-2.5, 1.0))), ACTIVE)
    expected = torch.full_like(image, 0.5)
    expected[:, :, 4:7, 9:12] = image[:, :, 6:9, 4:7]
    torch.testing.assert_close(warp.frames[:, 1], expected, atol=1e-4, rtol=0)


def test_centers_follow_a_quarter_turn_and_deviations_are_those_of_the_present():
    offset = grid_points(GRID) - 0.5
    back = torch.stack([offset[:, 1], -offset[:, 0]], dim=-1) - offset
    before = torch.zeros(1, 1, SIDE, SIDE)
    before[..., 6:8, 2:6] = 1  # wide
    present = before.rot90(-1, dims=(-2, -1))  # tall
    track = MotionTrack(before, present, back.view(1, 1, GRID, GRID, 2))
    x, y = 4 / SIDE, 7 / SIDE
    wide, tall = (MotionTrack.from_masks(before, grid_size=GRID).compute_moments()[0, 0], track.compute_moments()[0, 0])
    torch.testing.assert_close(wide[:2], torch.tensor([x, y]))
    torch.testing.assert_close(tall[:2], torch.tensor([1 - y, x]), atol=0.01, rtol=0)
    torch.testing.assert_close(tall[2:], wide[2:].flip(0))
