"""The canvas of the Animate tab: coordinates, points, masks and regions."""

import numpy as np
from PIL import Image

from dianjing.demo.page.canvas import RegionCanvas, RegionSelection
from dianjing.demo.page.canvas_drawing import REGION_COLORS
from dianjing.pipelines.segmentation.base import Point


def make_gray(width=64, height=48):
    return Image.new("RGB", (width, height), (120, 120, 120))


def test_a_position_on_the_displayed_image_maps_to_pixels_of_the_image():
    canvas = RegionCanvas(image=make_gray())
    assert canvas.render().size == (64 * canvas.display_scale, 48 * canvas.display_scale)
    assert canvas.to_image_coordinates(10 * canvas.display_scale, 20 * canvas.display_scale) == (10, 20)
    assert RegionCanvas(image=make_gray(2000, 1000)).display_scale == 1


def test_each_region_is_tinted_in_its_own_color_and_the_rest_is_unchanged():
    first, second = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    first[10:20, 10:20], second[30:40, 40:50] = True, True
    canvas = RegionCanvas(image=make_gray(), regions=(RegionSelection(mask=first), RegionSelection(mask=second)))
    pixels = np.asarray(canvas.render(), int)
    scale = canvas.display_scale
    for (row, column), color in (((15, 15), REGION_COLORS[0]), ((35, 45), REGION_COLORS[1])):
        change = pixels[row * scale, column * scale] - 120
        assert (np.sign(change) == np.sign(np.array(color) - 120)).all()
    assert (pixels[5 * scale, 50 * scale] == 120).all()


def test_points_belong_to_the_active_region():
    canvas = RegionCanvas(image=make_gray()).with_new_region().with_change(points=(Point(x=1, y=2),))
    assert [len(region.points) for region in canvas.regions] == [0, 1]
    assert canvas.with_active(0).active.points == ()
    assert canvas.with_active(9).active_index == 1


def test_regions_carry_their_own_motion_and_strength():
    canvas = RegionCanvas(image=make_gray()).with_change(points=(Point(x=1, y=1),)).with_new_region()
    canvas = canvas.with_change(points=(Point(x=2, y=2),))
    regions = canvas.to_regions(["jump", "sway", ""], [0.2, 0.8, 0.5])
    assert [(r.motion, r.strength, r.points[0].x) for r in regions] == [("jump", 0.2, 1), ("sway", 0.8, 2)]
