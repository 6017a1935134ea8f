"""Camera moves: the view follows the move, never leaves the image, and is as large as it can be."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.camera import MIN_VIEW
from dianjing.pipelines.video.guided_video import animate_regions
from dianjing.pipelines.video.warp_image import plan_camera_of_regions, warp_image

SIZE = (600, 400)


def plan_views(*moves, size=SIZE, num_frames=9):
    """The corners (F, 4, 2) of what each frame shows."""
    regions = [Region(target="image", **move) for move in moves]
    camera = plan_camera_of_regions(regions, num_frames=num_frames, size=size)
    return np.stack([camera.find_view(index, size=size) for index in range(num_frames)])


def get_width(view):
    return np.hypot(*(view[1] - view[0]))


def make_image(width=120, height=80):
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    return (np.stack([x * 200 / width, y * 200 / height, 0 * x], axis=-1) + noise).astype(np.uint8)


def draw_moves(rng, size):
    """One or two moves of any kind, with an anchor or without one."""
    moves = []
    for _ in range(rng.integers(1, 3)):
        path = [tuple(rng.uniform(0, 1, 2) * size) for _ in range(rng.integers(2, 5))]
        anchor = Point(x=rng.uniform(0, size[0]), y=rng.uniform(0, size[1])) if rng.random() < 0.3 else None
        scale = float(np.exp(rng.uniform(-2, 2)))
        moves.append({"path": path, "turn": rng.uniform(-400, 400), "scale": scale, "anchor": anchor})
    return moves


def test_no_view_of_any_move_leaves_the_image_or_changes_its_shape():
    rng = np.random.default_rng(1)
    for size in ((600, 400), (40, 900), (333, 333)):
        for _ in range(12):
            moves = draw_moves(rng, size)
            views = plan_views(*moves, size=size)
            assert (views > -1e-3).all()
            assert (views < np.array(size) + 1e-3).all()
            across, down = views[:, 1] - views[:, 0], views[:, 3] - views[:, 0]
            np.testing.assert_allclose(np.hypot(*down.T) / np.hypot(*across.T), size[1] / size[0], rtol=1e-5)
            np.testing.assert_allclose((across * down).sum(axis=1), 0, atol=1e-3)
            upright = min(size) / np.hypot(*size)  # of the image, in the largest rectangle that may turn within it
            smallest = MIN_VIEW * upright * math.prod(min(1, move["scale"]) for move in moves)
            assert get_width(views[0]) > 0.999 * smallest * size[0]


def test_a_zoom_out_ends_with_all_of_the_image_and_a_zoom_in_begins_with_it():
    image = make_image()
    out, _ = warp_image(image, [Region(target="image", scale=0.7)], 5)
    into, covered = warp_image(image, [Region(target="image", scale=1.4)], 5)
    np.testing.assert_array_equal(out[-1], image)
    np.testing.assert_array_equal(into[0], image)
    assert covered.all()
    views = plan_views({"scale": 0.7})
    np.testing.assert_allclose([get_width(view) / 600 for view in views], 0.7 ** (1 - np.arange(9) / 8), rtol=1e-6)


@pytest.mark.parametrize("move", [{"scale": 0.5}, {"turn": 25}, {"path": [(20, 40), (90, 60)]}], ids=str)
def test_no_frame_shows_a_mirror_image_beyond_the_border(move):
    """The red of the image rises from left to right; along every row of every frame it does, too, seen in the large."""
    image = make_image()
    frames, _ = warp_image(image, [Region(target="image", **move)], 6)
    for frame in frames:
        columns = frame[..., 0].astype(float).reshape(80, 12, 10).mean(axis=2)
        assert (np.diff(columns, axis=1).mean(axis=0) > 0).all()
        assert (np.diff(columns, axis=1) > -25).all()


def test_a_pan_goes_from_border_to_border_and_as_far_as_its_path():
    views = plan_views({"path": [(300, 200), (400, 200)]})
    np.testing.assert_allclose(views[:, 0, 0], 100 - 100 * np.arange(9) / 8, atol=1e-3)
    assert get_width(views[0]) == pytest.approx(500)
    np.testing.assert_allclose(views[:, [0, 2], 1].mean(axis=1), 200, atol=1e-3)  # in the middle of the height


@pytest.mark.parametrize("turn", [8, 20, 90])
def test_a_roll_sees_the_largest_rectangle_that_turns_within_the_image(turn):
    """A rectangle w x h within W x H at an angle: w cos + h sin <= W and w sin + h cos <= H."""
    angles = np.radians(np.linspace(0, turn, 9))
    c, s = np.abs(np.cos(angles)), np.abs(np.sin(angles))
    largest = np.minimum(600 / (600 * c + 400 * s), 400 / (600 * s + 400 * c)).min()
    views = plan_views({"turn": turn})
    assert get_width(views[0]) == pytest.approx(600 * largest, rel=1e-5)
    x, y = views[-1, 1] - views[-1, 0]
    assert math.degrees(math.atan2(-y, x)) == pytest.approx(turn, abs=1e-6)  # what turns clockwise is seen from a view
    # that turns the other way


def test_what_is_at_the_anchor_of_a_zoom_stays_where_it_is_in_the_frame():
    views = plan_views({"scale": 1.7, "anchor": Point(x=150, y=100)})
    for view in views:
        np.testing.assert_allclose((np.array([150, 100]) - view[0]) / (view[2] - view[0]), [0.25, 0.25], atol=1e-6)


def test_a_pan_that_is_too_long_is_shortened_and_not_enlarged_beyond_recognition():
    views = plan_views({"path": [(5, 5), (595, 5)]})
    assert get_width(views[0]) == pytest.approx(MIN_VIEW * 600)
    assert views[0, 0, 0] == pytest.approx(300, abs=1e-3)
    assert views[-1, 0, 0] == pytest.approx(0, abs=1e-3)


def test_a_region_jumps_in_front_of_a_moving_camera():
    image = make_image()
    image[30:50, 50:70] = (0, 0, 255)
    mask = image[..., 2] == 255
    object_alone = Region(mask=mask, path=[(60, 40), (60, 20)])
    both, _ = warp_image(image, [object_alone, Region(target="image", path=[(20, 40), (40, 40)])], 3)
    alone, _ = warp_image(image, [object_alone], 3)
    centers = [np.argwhere(frames[2][..., 2] > 200).mean(axis=0) for frames in (both, alone)]
    view = 1 - 20 / 120  # it begins at x = 20, and ends at x = 0
    assert centers[0][1] == pytest.approx((centers[1][1] + 0.5) / view - 0.5, abs=1)


def test_transparent_parts_stay_as_they_are_in_a_view():
    image = np.dstack([make_image(), np.full((80, 120), 255, np.uint8)])
    image[:, :60, 3] = 0
    frames, _ = warp_image(image, [Region(target="image", scale=0.5)], 3)
    np.testing.assert_array_equal(frames[-1], image)
    assert frames[0][:, :58, 3].max() == 0
    assert frames[0][:, 62:, 3].min() == 255


class RecordingPipeline:
    """A stand-in of a published pipeline: it takes any size, and returns its image and its guide."""

    model = SimpleNamespace(
        resolve_size=lambda width, height, size: size,
        resolve_num_frames=lambda num_frames, duration_s, fps: num_frames,
        default_fps=8.0,
    )

    def __call__(self, prompt, image, guide, **settings):
        return np.asarray(image), guide


def test_a_published_model_starts_from_what_the_camera_shows_first():
    image = make_image()
    region = Region(target="image", scale=0.5)
    first, guide = animate_regions(RecordingPipeline(), image, [region], num_frames=5)
    np.testing.assert_array_equal(first, guide.frames[0])
    assert np.abs(first.astype(int) - image).mean() > 5
    np.testing.assert_array_equal(guide.frames[-1], image)
