"""The background behind what moves: textures with a known truth, OpenCV's inpainting for comparison, and shadows."""

import cv2
import numpy as np
import pytest

from dianjing.pipelines.video.inpainting import find_contact_shadow, inpaint
from dianjing.pipelines.video.region_layers import split_layers
from dianjing.pipelines.video.smooth_filling import copy_seamlessly

HEIGHT, WIDTH = 180, 240
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
HOLE = np.hypot((X - 120) / 55, (Y - 90) / 40) <= 1


def to_image(*channels):
    return np.stack([np.broadcast_to(c, (HEIGHT, WIDTH)) for c in channels], axis=-1).clip(0, 255).astype(np.uint8)


def make_grain():
    """Wood: noise that is long along one direction, lighter on the left, so that no piece has the colors of another."""
    noise = np.random.default_rng(0).normal(0, 1, (2 * HEIGHT, 2 * WIDTH)).astype(np.float32)
    streaks = cv2.GaussianBlur(noise, (0, 0), sigmaX=14, sigmaY=0.8)
    rotated = cv2.warpAffine(streaks, cv2.getRotationMatrix2D((WIDTH, HEIGHT), 30, 1), None)
    grain = rotated[HEIGHT // 2 : HEIGHT // 2 + HEIGHT, WIDTH // 2 : WIDTH // 2 + WIDTH]
    light = 150 - 60 * X / WIDTH
    return to_image(light * 1.2 + 120 * grain, light * 0.8 + 90 * grain, light * 0.5 + 60 * grain)


def fill(truth):
    """Our filling, and those of OpenCV."""
    damaged = np.where(HOLE[..., None], np.uint8([0, 255, 0]), truth)
    hole = HOLE.astype(np.uint8)
    opencv = [cv2.inpaint(damaged, hole, 3, method) for method in (cv2.INPAINT_TELEA, cv2.INPAINT_NS)]
    return inpaint(damaged, HOLE), opencv


def measure_detail(image, selected):
    """Root mean square of what is finer than 4 px."""
    fine = image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 4)
    return float(np.sqrt((fine[selected] ** 2).mean()))


def test_wood_keeps_its_grain_and_its_light_where_opencv_smears_it():
    truth = make_grain()
    ours, opencv = fill(truth)
    np.testing.assert_array_equal(ours[~HOLE], truth[~HOLE])
    inner = cv2.erode(HOLE.astype(np.uint8), np.ones((7, 7))) > 0
    expected = measure_detail(truth, inner)
    assert 0.75 * expected < measure_detail(ours, inner) < 1.25 * expected
    assert max(measure_detail(other, inner) for other in opencv) < 0.75 * expected
    smooth, smooth_truth = (cv2.GaussianBlur(part, (0, 0), 12).astype(float) for part in (ours, truth))
    assert np.abs(smooth - smooth_truth)[HOLE].mean() < 8


def test_the_direction_of_wood_goes_on():
    """Structure tensor: the mean direction of the gradients in the hole is that of the truth within 8 degrees."""

    def direction(image):
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order)[HOLE] for order in ((1, 0), (0, 1)))
        return np.degrees(np.arctan2(2 * (dx * dy).mean(), (dx**2 - dy**2).mean())) / 2

    truth = make_grain()
    assert abs((direction(fill(truth)[0]) - direction(truth) + 90) % 180 - 90) < 8


def test_the_rim_of_the_filling_is_no_seam():
    """Across the rim, neighbors differ about as much as anywhere else in the texture."""
    truth = make_grain()
    ours = fill(truth)[0].astype(float)
    is_rim = HOLE[:, 1:] ^ HOLE[:, :-1]
    steps = np.abs(np.diff(ours, axis=1)).mean(axis=-1)
    average = np.abs(np.diff(truth.astype(float), axis=1)).mean()
    assert steps[is_rim].mean() < 1.4 * average


@pytest.mark.parametrize(("kind", "allowed"), [("gradient", 3.0), ("edge", 6.0), ("checks", 20.0)])
def test_a_known_truth_comes_back_at_least_as_well_as_by_opencv(kind, allowed):
    if kind == "gradient":
        truth = to_image(60 + X * 0.5, 80 + Y * 0.6, 200 - X * 0.3 - Y * 0.2)
    elif kind == "edge":  # of two plain regions, slanted through the hole
        truth = to_image(
            *(np.where(X + 0.6 * Y > 175, bright, dark) for bright, dark in ((210, 60), (180, 70), (140, 110)))
        )
    else:
        truth = to_image(*((X // 10 + Y // 10) % 2 * 120 + level for level in (40, 70, 100)))
    ours, opencv = fill(truth)
    errors = [np.abs(part.astype(float) - truth)[HOLE].mean() for part in (ours, *opencv)]
    assert errors[0] <= max(1.0, min(errors[1:]))
    assert errors[0] <= allowed


def test_a_piece_that_is_lighter_than_its_surroundings_takes_their_light():
    """A copy that differs by a constant from what it replaces gives the truth back, by the maths exactly."""
    wave = 0.2 * np.sin(X / 5) + 0.4
    truth = np.repeat(wave[..., None], 3, axis=2)
    source = truth.copy()
    source[:, :60] += 0.2
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[80:100, 100:120] = True
    offsets = np.zeros((HEIGHT, WIDTH, 2), int)
    offsets[hole] = (0, -94)  # three periods: a piece that lies within the lighter part
    copied = copy_seamlessly(source.astype(np.float32), hole, offsets)
    assert np.abs(copied - truth)[hole].mean() < 0.03
    pasted = source[80:100, 6:26]
    assert np.abs(pasted - truth[80:100, 100:120]).mean() > 0.15


def make_shaded(softness, *, bright=True):
    """An object on wood with a shadow to the lower right; its mask, the shadow's core, and the wood."""
    wood = make_grain()
    mask = np.hypot(X - 110, Y - 80) <= 42
    cast = (np.hypot(X - 117, Y - 89) <= 42).astype(np.float32)
    light = 1 - 0.8 * (cv2.GaussianBlur(cast, (0, 0), softness) if softness else cast)
    image = (wood * light[..., None]).astype(np.uint8) if bright else wood.copy()
    image[mask] = (30, 60, 210)
    return image, mask, (light < 0.5) & ~mask, wood


def test_a_soft_shadow_is_found_and_a_dark_object_with_a_sharp_edge_is_none():
    image, mask, core, _ = make_shaded(4)
    found = find_contact_shadow(image, mask)
    assert (found & core).sum() > 0.85 * core.sum()
    assert found.sum() < 2.5 * core.sum()
    assert not (found & mask).any()
    sharp, mask, _, _ = make_shaded(0)
    assert not find_contact_shadow(sharp, mask).any()
    without, mask, _, _ = make_shaded(4, bright=False)
    assert not find_contact_shadow(without, mask).any()


def test_a_part_that_bends_and_an_image_with_alpha_cast_no_shadow_of_their_own():
    image, mask, _, _ = make_shaded(4)
    assert split_layers(image, [mask], stands_free=[True]).shadows[0] is not None
    assert split_layers(image, [mask], stands_free=[False]).shadows == (None,)
    with_alpha = np.concatenate([image, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
    assert split_layers(with_alpha, [mask], stands_free=[True]).shadows == (None,)
