"""Edge widths and rings, against images whose blur and halo are known."""

import numpy as np
import pytest
from scipy import ndimage

from dianjing.train.evaluation.sharpness import STAGE, SharpnessMeasure, measure_ring, shows_object_in_place
from dianjing.train.stickers import StickerWorld
from dianjing.train.stickers.matching import SpriteMatcher

SIZE_PX = 96
TEN_TO_NINETY = 2.563  # of the integral of a Gaussian, in standard deviations
PIXEL_VARIANCE = 1 / 12 + 1 / 6  # of a pixel's area, and of linear interpolation between two
BACKGROUND = np.full((SIZE_PX, SIZE_PX, 3), (0.2, 0.6, 0.9))


def make_disc(*, radius_px: float, blur_px: float) -> np.ndarray:
    """A red disc with a soft outline, premultiplied (S, S, 4)."""
    y, x = np.indices((4 * SIZE_PX, 4 * SIZE_PX)) / 4 - SIZE_PX / 2
    fine = (np.hypot(y, x) < radius_px).astype(float)
    alpha = ndimage.gaussian_filter(fine, 4 * blur_px).reshape(SIZE_PX, 4, SIZE_PX, 4).mean((1, 3))
    return np.concatenate([alpha[..., None] * np.array([0.9, 0.1, 0.1]), alpha[..., None]], axis=-1)


def composite(sprite: np.ndarray) -> np.ndarray:
    return sprite[..., :3] + (1 - sprite[..., 3:]) * BACKGROUND


@pytest.mark.parametrize("blur_px", [0.8, 1.2])
def test_the_edge_width_of_a_gaussian_edge_is_its_ten_to_ninety_distance(blur_px):
    measure = SharpnessMeasure()
    blurred = composite(make_disc(radius_px=25, blur_px=blur_px))
    measure.add(blurred, make_disc(radius_px=25, blur_px=0.6), BACKGROUND, is_plain=True)
    figures = measure.summarise()
    assert figures["num_points"] > 100
    std, true_std = ((each**2 + PIXEL_VARIANCE) ** 0.5 for each in (blur_px, 0.6))
    assert figures["edge_width_px"] == pytest.approx(TEN_TO_NINETY * std, rel=0.06)
    assert figures["edge_width_ratio"] == pytest.approx(std / true_std, rel=0.06)


def test_an_object_that_moved_by_a_pixel_keeps_its_edge_width():
    sprite = make_disc(radius_px=25, blur_px=0.8)
    moved = ndimage.shift(composite(sprite), (1.5, -1, 0), order=3, mode="nearest")
    measure = SharpnessMeasure()
    measure.add(moved, sprite, BACKGROUND, is_plain=True)
    assert measure.summarise()["edge_width_ratio"] == pytest.approx(1, abs=0.07)


def test_a_ring_counts_the_levels_of_a_halo_and_nothing_else():
    sprite = make_disc(radius_px=20, blur_px=0.3)
    image = composite(sprite)
    assert measure_ring(image, BACKGROUND, sprite[..., 3]) == pytest.approx(0, abs=0.2)
    y, x = np.indices((SIZE_PX, SIZE_PX)) - (SIZE_PX - 1) / 2
    distance = np.hypot(y, x)
    halo = image + ((distance > 21) & (distance < 30))[..., None] * (10 / 255)
    far = image + (distance > 30)[..., None] * (10 / 255)
    assert measure_ring(halo, BACKGROUND, sprite[..., 3]) == pytest.approx(10, abs=1.5)
    assert measure_ring(far, BACKGROUND, sprite[..., 3]) == pytest.approx(0, abs=0.2)


def test_an_object_is_in_place_unless_it_is_moved_or_another_one():
    world, matcher = StickerWorld(size_px=128, stages=[STAGE], split="held_out"), SpriteMatcher(size_px=128)
    samples = [world.get_image_sample(4, index) for index in range(60)]
    large = [each for each in samples if each.boxes[0][2] >= 48 and each.boxes[0][0] < 40]
    sample = large[0]
    other = next(each for each in large if each.scene.instances[0].class_id != sample.scene.instances[0].class_id)
    assert shows_object_in_place(sample.image, sample, matcher)
    assert not shows_object_in_place(np.roll(sample.image, 40, axis=1), sample, matcher)
    assert not shows_object_in_place(other.image, sample, matcher)
