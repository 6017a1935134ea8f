"""Shadows of objects that move: on the ground they follow, grow and fade, and all else stays."""

import cv2
import numpy as np
import pytest

from dianjing.pipelines.segmentation.base import Region
from dianjing.pipelines.video.image_warp import RegionMotion
from dianjing.pipelines.video.motion_path import Similarity, make_similarities
from dianjing.pipelines.video.region_layers import split_layers
from dianjing.pipelines.video.shadow_motion import cast_shadow, follow_point
from dianjing.pipelines.video.warp_image import warp_image
from tests.pipelines.video.test_background_filling import HEIGHT, WIDTH, X, Y, make_grain, make_shaded


def measure_darkness(frame, wood, selected):
    """How much of the light of the wood is missing, on the mean of the selected pixels."""
    return 1 - frame[selected].astype(float).mean() / wood[selected].astype(float).mean()


def move(motion):
    """A frame at the end of a motion, its cover and that of the first frame, and the scene."""
    image, mask, core, wood = make_shaded(4)
    frames, covered = warp_image(image, [Region(mask=mask, **motion)], 3)
    still = ~(covered[0] | covered[2])
    np.testing.assert_array_equal(frames[2][still], image[still])
    assert still.mean() > 0.25
    return frames[2], covered, core, wood


def test_a_shadow_leaves_with_an_object_that_moves_to_the_side():
    frame, covered, core, wood = move({"path": [(110, 80), (195, 80)]})
    assert covered[0][core].mean() > 0.85
    where = core & ~covered[2]
    assert where.sum() > 100
    assert measure_darkness(frame, wood, where) < 0.2
    moved = np.roll(core, 85, axis=1)
    moved[:, :85] = False
    assert measure_darkness(frame, wood, moved) > 0.4


def test_a_shadow_goes_down_with_its_object():
    frame, _, core, wood = move({"path": [(110, 80), (110, 120)]})
    moved = np.roll(core, 40, axis=0)
    moved[:40] = False
    assert measure_darkness(frame, wood, moved) > 0.4


def test_a_shadow_stays_on_the_ground_when_its_object_goes_up_and_is_fainter():
    frame, _, core, wood = move({"path": [(110, 80), (110, 10)]})
    image = make_shaded(4)[0]
    assert 0.25 < measure_darkness(frame, wood, core) < 0.75 * measure_darkness(image, wood, core)
    above = np.roll(core, -70, axis=0)
    above[-70:] = False
    lit = above & ~(np.hypot(X - 117, Y - 89) <= 52)
    assert lit.sum() > 100
    assert abs(measure_darkness(frame, wood, lit)) < 0.1


def test_a_shadow_has_no_bright_center_where_its_object_was():
    """Along the column of the object it fades upwards from its dark lower side, and not at once."""
    frame, _, _, wood = move({"path": [(110, 80), (110, 20)]})
    dark = [measure_darkness(frame, wood, (np.abs(X - 113) < 8) & (np.abs(Y - row) < 4)) for row in (126, 112, 98)]
    assert dark[0] > 0.3
    assert dark[0] > dark[1] > 0.4 * dark[0]
    assert dark[1] > dark[2] > 0.1 * dark[0]


@pytest.mark.parametrize("scale", [0.6, 1.3])
def test_a_shadow_grows_and_shrinks_with_its_object_and_stays_in_touch_with_it(scale):
    frame, _, _, wood = move({"scale": scale})
    x, y = (X - 110) / scale, (Y - 80) / scale  # of the scene as it was
    core = (np.hypot(x - 7, y - 9) <= 38) & (np.hypot(x, y) > 43)
    assert measure_darkness(frame, wood, core) > 0.4
    if scale < 1:
        left_behind = (np.hypot(X - 117, Y - 89) <= 46) & (np.hypot(X - 110, Y - 80) > 40)
        assert measure_darkness(frame, wood, left_behind) < 0.15


def test_a_shadow_does_not_turn_with_its_object():
    image, mask, core, wood = make_shaded(4)
    frames, _ = warp_image(image, [Region(turn=180, mask=mask)], 2)
    assert frames[1][core].astype(float).mean() < 0.6 * wood[core].astype(float).mean()
    opposite = np.hypot(X - 103, Y - 71) <= 42
    opposite &= np.hypot(X - 110, Y - 80) > 45
    np.testing.assert_allclose(frames[1][opposite].astype(float).mean(), wood[opposite].astype(float).mean(), rtol=0.1)


@pytest.mark.parametrize("angle", [0.5, 2.0, 3.1])
def test_a_point_is_followed_through_any_turn(angle):
    """The truth is the rotation about the pivot, clockwise on the screen, and the shift."""
    pivot, center = (100.0, 60.0), (130.0, 80.0)
    motion = RegionMotion(similarities=[Similarity(dx=12, dy=-7, angle=angle)], pivot=pivot)
    x, y = center[0] - pivot[0], center[1] - pivot[1]
    expected_x = pivot[0] + np.cos(angle) * x - np.sin(angle) * y + 12
    expected_y = pivot[1] + np.sin(angle) * x + np.cos(angle) * y - 7
    assert follow_point(motion, center, 0, size=(WIDTH, HEIGHT)) == pytest.approx((expected_x, expected_y), abs=0.1)


def test_the_ground_is_as_high_as_the_object_was_lowest():
    """Up, down past the start, and up again: the shadow stays, goes down, and stays there."""
    mask = np.hypot(X - 100, Y - 90) <= 20
    path = [(100, 90), (120, 60), (140, 120), (160, 80)]
    similarities = make_similarities(path=path, turn=200, scale=2, times=[0, 0.2, 0.6, 1], num_frames=11)
    shadow = cast_shadow(RegionMotion(similarities=similarities, pivot=(100.5, 90.5)), mask)
    moved = shadow.motion.similarities
    np.testing.assert_allclose([each.dx for each in moved], [each.dx for each in similarities], atol=0.6)
    np.testing.assert_allclose([moved[index].dy for index in (0, 2, 6, 10)], [0, 0, 30, 30], atol=0.6)
    np.testing.assert_allclose([each.scale for each in moved], [each.scale for each in similarities], rtol=1e-6)
    assert all(each.angle == 0 for each in moved)
    assert shadow.strengths[0] == shadow.strengths[6] == 1
    assert shadow.strengths[2] < 0.7  # at 30 px above the ground
    assert shadow.strengths[10] < shadow.strengths[2]  # at 40 px


def test_the_soft_edge_of_an_object_takes_no_black_specks_out_of_its_shadow():
    """Through an edge shows the wood in the shadow: against wood in the light, colors would be below black."""
    wood, mask = make_grain(), np.hypot(X - 110, Y - 80) <= 42
    opacity = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)[..., None]
    cast = cv2.GaussianBlur((np.hypot(X - 117, Y - 89) <= 42).astype(np.float32), (0, 0), 4)[..., None]
    image = (wood * (1 - 0.8 * cast) * (1 - opacity) + np.array([30, 60, 210]) * opacity).astype(np.uint8)
    layered = split_layers(image, [mask], stands_free=[True])
    assert layered.shadows[0] is not None
    pixels = layered.layers[0].pixels
    is_edge = (pixels[..., 3] > 0) & (pixels[..., 3] < 0.5)
    assert is_edge.sum() > 100
    assert pixels[is_edge].min() > -60
