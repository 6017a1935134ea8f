"""Bends of synthetic figures: no fold, no tear, and the joint stays."""

import numpy as np
import pytest

from dianjing.pipelines.video.bending import plan_bend
from dianjing.pipelines.video.fold_limit import MIN_AREA_RATIO, limit_folds
from dianjing.pipelines.video.image_warp import RegionMotion
from dianjing.pipelines.video.motion_path import make_similarities

HEIGHT, WIDTH = 160, 200
Y, X = np.mgrid[:HEIGHT, :WIDTH]
FIGURES = {
    "disc": np.hypot(X - 100, Y - 60) < 35,
    "low": (np.abs(X - 100) < 80) & (np.abs(Y - 110) < 18),
    "two pieces": (np.hypot(X - 100, Y - 45) < 24) | ((np.abs(X - 100) < 45) & (Y > 85)),
    "u": ((np.abs(X - 100) < 50) & (np.abs(Y - 90) < 45)) & ~((np.abs(X - 100) < 25) & (Y < 100)),
    "l": ((X > 50) & (X < 75) & (Y > 20) & (Y < 140)) | ((X > 50) & (X < 150) & (Y > 115) & (Y < 140)),
    "at the border": (np.abs(X - 100) < 40) & (Y > 60),
    "in a corner": (X < 70) & (Y > 90),
}
ANCHORS = {"below": (100, 150), "far": (20, 20), "within": (100, 110)}
MOTIONS = {"shift": {"path": [(100, 80), (150, 70)]}, "turn": {"turn": 120}, "growth": {"turn": -30, "scale": 1.8}}


def make_image(mask):
    image = np.random.default_rng(1).integers(195, 216, (HEIGHT, WIDTH, 3))
    image[mask] = (180, 60, 50)
    return image.astype(np.uint8)


def bend_about(anchor, mask, *, path=None, turn=0.0, scale=1.0):
    bend = plan_bend(make_image(mask), mask, motion="", anchor=anchor)
    similarities = make_similarities(path=path, turn=turn, scale=scale, times=None, num_frames=3)
    return RegionMotion(similarities=similarities, pivot=anchor, bend_weight=bend.weight)


def map_pixels(motion, index):
    """The map of the corners of all pixels, finer than the grid on which folds are looked for."""
    x, y = np.meshgrid(np.arange(WIDTH + 1.0), np.arange(HEIGHT + 1.0))
    return np.stack(motion.map_backward(x, y, index, size=(WIDTH, HEIGHT)), axis=-1)


def measure(motion, index, mask):
    """The smallest area of the image that a pixel shows, and the largest step between neighbors, within the mask."""
    mapped = map_pixels(motion, index)
    across, down = np.diff(mapped, axis=1)[:-1], np.diff(mapped, axis=0)[:, :-1]
    areas = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    column, row = np.floor(mapped[:-1, :-1]).astype(int).transpose(2, 0, 1)
    is_in_image = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    is_inside = is_in_image & mask[row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)]
    steps = np.maximum(np.hypot(*across.transpose(2, 0, 1)), np.hypot(*down.transpose(2, 0, 1)))
    return areas[is_inside].min(), steps[is_inside].max()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_bend_never_folds_and_neighbors_stay_neighbors(figure):
    mask = FIGURES[figure]
    for anchor in ANCHORS.values():
        for motion in MOTIONS.values():
            limited = limit_folds(bend_about(anchor, mask, **motion), mask)
            for index in (1, 2):
                area, step = measure(limited, index, mask)
                assert area > 0.3 * MIN_AREA_RATIO * min(1, motion.get("scale", 1) ** -2)
                assert step < 5


def test_a_long_pull_would_fold_without_a_limit():
    """The same bend, as it is planned: places of the frame show the image in reverse."""
    mask = FIGURES["disc"]
    assert measure(bend_about((100, 100), mask, path=[(100, 60), (150, 60)]), 2, mask)[0] < 0


@pytest.mark.parametrize("anchor", ANCHORS.values(), ids=ANCHORS)
def test_the_joint_at_an_anchor_stays_where_it_is(anchor):
    mask = FIGURES["low"]
    weight = plan_bend(make_image(mask), mask, motion="", anchor=anchor).weight
    distance = np.where(mask, np.hypot(X + 0.5 - anchor[0], Y + 0.5 - anchor[1]), np.inf)
    row, column = np.unravel_index(distance.argmin(), mask.shape)
    assert weight[row, column] == 0
    assert weight[mask].max() > 0.99


def test_pieces_of_a_figure_bend_about_what_it_stands_on():
    """A neck, which the mask leaves out, goes on across the outlines of head and body; it is no joint."""
    mask = (np.hypot(X - 100, Y - 45) < 24) | ((np.abs(X - 100) < 45) & (Y > 85) & (Y < 150))
    image = make_image(mask)
    image[60:88, 70:130][~mask[60:88, 70:130]] = (180, 60, 50)
    weight = plan_bend(image, mask, motion="sway").weight
    assert weight[147:150, 60:140].max() < 0.02
    assert weight[25:60, 90:110].min() > 0.9


def make_furry_ball(*, softness):
    """A brown ball on brown ground, whose hair thins out over a rim of so much of its radius; and its mask."""
    rng = np.random.default_rng(0)
    ground = np.array([150, 120, 90]) + rng.integers(-6, 7, (HEIGHT, WIDTH, 1))
    radius = np.hypot(X - 100, Y - 80)
    opacity = np.clip((46 - radius) / (46 * softness), 0, 1)[..., None]
    ball = np.array([104, 70, 44]) + rng.integers(-6, 7, (HEIGHT, WIDTH, 1))
    return (ball * opacity + ground * (1 - opacity)).astype(np.uint8), opacity[..., 0] > 0.4


def test_what_is_around_a_ball_of_hair_does_not_stretch_with_it():
    """Across its soft rim colors hardly differ, beyond it they do: it is no part of what it lies on."""
    image, mask = make_furry_ball(softness=0.4)
    for motion in ("sway", "nod"):
        bend = plan_bend(image, mask, motion=motion)
        np.testing.assert_array_equal(bend.mask, mask)
        assert bend.weight[mask].max() > 0.99


def test_what_is_around_a_part_of_a_surface_stretches_with_it():
    image = (np.array([150, 120, 90]) + np.random.default_rng(0).integers(-6, 7, (HEIGHT, WIDTH, 1))).astype(np.uint8)
    mask = np.hypot(X - 100, Y - 80) < 30
    bend = plan_bend(np.repeat(image, 3 // image.shape[2], axis=2), mask, motion="nod")
    assert bend.mask.sum() > 1.2 * mask.sum()
    assert bend.weight[mask].min() > 0.9
