"""Clicks and drags on the canvas of the Animate tab, and the regions of a file."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.drag import MAX_DRAG_POINTS, parse_drag, simplify_path
from dianjing.demo.page.region_events import click_canvas, drag_canvas
from dianjing.demo.page.region_import import parse_regions, select_regions
from dianjing.demo.page.region_panel import ANCHOR, POSITIVE, check_regions
from dianjing.errors import DianjingError
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.segmentation.base import Point, get_region_metadata

SIZE = (600, 400)  # displayed as it is
MAX_REGIONS = 3


def predict_square(image, points, labels):
    """The square of 40 px around the first point."""
    mask = np.zeros(SIZE[::-1], bool)
    x, y = (int(value) for value in points[0])
    mask[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20] = True
    return mask


CONTEXT = SimpleNamespace(engine=SimpleNamespace(predict_mask=predict_square))


@pytest.fixture
def canvas():
    return RegionCanvas(image=Image.new("RGB", SIZE))


def drag(canvas, *points):
    return drag_canvas(CONTEXT, canvas, list(points), max_regions=MAX_REGIONS)


def click(canvas, x, y, meaning=POSITIVE):
    return click_canvas(CONTEXT, canvas, (x, y), meaning, max_regions=MAX_REGIONS)


def test_a_drag_selects_what_it_begins_on_and_gives_it_a_path(canvas):
    canvas = drag(canvas, (100, 100), (150, 100), (200, 100))
    [region] = canvas.to_regions([""], [0.5])
    assert (region.points, region.path) == ((Point(x=100, y=100),), ((100.0, 100.0), (200.0, 100.0)))
    assert canvas.undo().active.path is None
    assert canvas.undo().undo().active.is_empty


def test_a_drag_belongs_to_the_region_that_it_begins_on(canvas):
    canvas = click(click(canvas, 100, 100).with_new_region(), 400, 300)
    canvas = drag(canvas, (110, 110), (200, 200))
    assert [region.path is None for region in canvas.regions] == [False, True]
    canvas = drag(canvas, (300, 50), (350, 50))
    assert [region.path is None for region in canvas.regions] == [False, True, False]
    with pytest.raises(DianjingError, match="4 regions are given; this model takes 1 to 3"):
        drag(canvas, (500, 50), (550, 50))


def test_a_drag_over_a_camera_move_is_its_path_and_moves_all_of_the_picture(canvas):
    canvas = drag(canvas.with_new_region("image"), (10, 10), (60, 10))
    [region] = canvas.to_regions(["jump"], [0.5])
    assert (region.target, region.motion, region.path) == ("image", "", ((10.0, 10.0), (60.0, 10.0)))
    assert len(click(canvas, 300, 200).regions) == 2  # a click is on an object


def test_a_joint_is_the_anchor_of_the_active_region(canvas):
    canvas = click(click(canvas, 100, 100), 90, 120, ANCHOR)
    assert canvas.active.anchor == Point(x=90, y=120)
    assert canvas.active.points == (Point(x=100, y=100),)


def test_the_outline_at_the_end_is_where_the_region_goes(canvas):
    canvas = drag(canvas, (100, 100), (300, 150))
    pixels = np.asarray(canvas.render())
    assert pixels[150, 280 - 4 : 280 + 4].max() > 60  # the left edge of the square, 200 px to the right of its own
    assert pixels[250:, :].max() == pixels[:40, :].max() == 0


@pytest.mark.parametrize(("scale", "outlined"), [(1.25, "the last view"), (0.8, "the first view")])
def test_what_a_camera_sees_is_outlined_within_the_picture(canvas, scale, outlined):
    """The picture is 600 x 400; 1 / 1.25 of it, and 0.8, are 480 x 320 about its middle."""
    pixels = np.asarray(canvas.with_new_region("image").with_change(scale=scale).render()).astype(int)
    still = np.asarray(canvas.render()).astype(int)
    changed = np.abs(pixels - still).max(axis=-1) > 60
    assert changed[40:360, 58:63].any(axis=1).mean() > 0.5
    assert changed[38:43, 60:540].any(axis=0).mean() > 0.5
    assert not changed[60:340, 80:520].any()


def test_a_path_keeps_its_shape_with_few_points():
    angles = np.linspace(0, np.pi, 200)
    points = [(300 + 100 * np.cos(angle), 200 + 100 * np.sin(angle)) for angle in angles]
    chosen = simplify_path(points, size=SIZE)
    assert len(chosen) < 20
    assert np.allclose(chosen[0], points[0], atol=0.06)
    assert np.allclose(chosen[-1], points[-1], atol=0.06)
    assert all(abs(np.hypot(x - 300, y - 200) - 100) < 0.1 for x, y in chosen)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[[1, 2]]",
        '"[1, 2]"',
        "[[1, 2], [3]]",
        "[[1, 2], [NaN, 3]]",
        "[[1, 2], [1e999, 3]]",
        "[[1, 2], null]",
        "[" * 100_000,
        str([[1, 2]] * (MAX_DRAG_POINTS + 1)),
    ],
    ids=lambda text: text[:20],
)
def test_a_drag_that_is_none_is_refused(text):
    with pytest.raises(DianjingError, match="cannot be read"):
        parse_drag(text)


@pytest.mark.parametrize("point", [(-1, 5), (600, 5), (5, 1e6)])
def test_a_path_that_leaves_the_picture_is_refused(canvas, point):
    with pytest.raises(DianjingError, match="outside the image of 600 x 400"):
        drag(canvas, (100, 100), point)


def test_a_region_without_a_motion_and_a_path_is_refused(canvas):
    canvas = click(canvas, 100, 100)
    with pytest.raises(DianjingError, match="region 1 has no motion"):
        check_regions(canvas, [""])
    check_regions(canvas.with_change(turn=5.0), [""])
    with pytest.raises(DianjingError, match="region 1 has no motion"):
        check_regions(RegionCanvas(image=canvas.image).with_new_region("image"), ["jump"])


def test_the_regions_of_a_file_are_those_that_made_it(canvas):
    canvas = drag(canvas, (100, 100), (150, 180), (300, 150)).with_change(turn=30.0, scale=0.5, anchor=Point(x=9, y=9))
    canvas = drag(canvas.with_new_region("image"), (5, 5), (50, 5))
    regions = canvas.to_regions(["", ""], [0.5, 0.5])
    settings = {"regions": [get_region_metadata(region) for region in regions]}
    metadata = GenerationMetadata(prompt="", seed=0, settings=settings, model="sticker", version="0")
    restored = select_regions(CONTEXT, canvas.image, parse_regions(metadata))
    assert restored.to_regions(["", ""], [0.5, 0.5]) == regions
    assert restored.regions[0].mask.sum() == 1600
