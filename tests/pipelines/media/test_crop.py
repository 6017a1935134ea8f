"""Scaling and crop of images of all sizes."""

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.crop import choose_size, compute_crop_box, list_default_sizes, resize_crop

MAX_SIDE_PX = 5000
TARGETS = [(64, 64), (80, 48), (16, 320), (4096, 4096)]
ROUNDING = 1e-9


@pytest.mark.parametrize("target", TARGETS)
def test_the_crop_box_of_all_sizes_is_inside_the_image_and_has_the_aspect_of_the_target(target):
    heights = np.arange(1, MAX_SIDE_PX + 1, dtype=np.float64)
    for first in range(1, MAX_SIDE_PX + 1, 250):
        widths = np.arange(first, first + 250, dtype=np.float64)[:, None]
        left, top, right, bottom = compute_crop_box((widths, heights), target)
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= widths).all()
        assert (bottom <= heights).all()
        box_aspect = (right - left) / (bottom - top)
        assert (abs(box_aspect / (target[0] / target[1]) - 1) < ROUNDING).all()
        # the box touches two opposite sides: nothing more is cut off than necessary
        assert (np.minimum(widths - (right - left), heights - (bottom - top)) < ROUNDING * MAX_SIDE_PX).all()


@pytest.mark.parametrize(("target", "other_side"), [((64, 64), 49), ((80, 48), 49), ((64, 64), 1)])
def test_images_of_all_widths_and_heights_are_cropped(target, other_side):
    for side in range(1, MAX_SIDE_PX + 1):
        size = (side, other_side) if side % 2 else (other_side, side)
        image, transform = resize_crop(Image.new("L", size), width=target[0], height=target[1])
        assert image.size == target
        assert transform.left >= 0
        assert transform.top >= 0


@pytest.mark.parametrize("size", [(214, 284), (88, 49), (1000, 998), (4032, 4024)])
def test_sizes_of_photos_are_cropped(size):
    image, _ = resize_crop(Image.new("RGB", size, "red"), width=64, height=64)
    assert image.getcolors() == [(64 * 64, (255, 0, 0))]


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64), (37, 91)])
def test_the_transform_maps_the_center_and_the_corners_of_the_crop(size):
    _, transform = resize_crop(Image.new("L", size), width=80, height=48)
    left, top, right, bottom = compute_crop_box(size, (80, 48))
    assert transform.transform_point(size[0] / 2, size[1] / 2) == pytest.approx((40, 24))
    assert transform.transform_point(left, top) == pytest.approx((0, 0), abs=1e-9)
    assert transform.transform_point(right, bottom) == pytest.approx((80, 48))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((1000, 998), (64, 64)),
        ((4032, 3024), (64, 48)),
        ((3024, 4032), (48, 64)),
        ((1600, 900), (80, 48)),
        ((1080, 1920), (48, 80)),
        ((3000, 1000), (96, 48)),
    ],
)
def test_the_default_size_of_the_bundled_model_follows_the_aspect_of_the_image(size, expected):
    assert choose_size(size, base_px=64, multiple_px=16) == expected


@pytest.mark.parametrize(("base_px", "multiple_px"), [(64, 16), (256, 16), (512, 16), (1024, 16), (32, 32)])
def test_default_sizes_are_multiples_of_about_the_area_of_the_model(base_px, multiple_px):
    sizes = list_default_sizes(base_px=base_px, multiple_px=multiple_px)
    assert sizes[0] == (base_px, base_px)
    for width, height in sizes:
        assert width % multiple_px == height % multiple_px == 0
        assert 0.75 <= width * height / base_px**2 <= 1.25
        assert (height, width) in sizes


@pytest.mark.parametrize(("base_px", "multiple_px", "limit"), [(64, 16, 0.13), (1024, 16, 0.02)])
def test_little_of_an_image_is_cropped_up_to_two_to_one(base_px, multiple_px, limit):
    for width in range(1000, 2001, 7):
        chosen = choose_size((width, 1000), base_px=base_px, multiple_px=multiple_px)
        left, top, right, bottom = compute_crop_box((width, 1000), chosen)
        assert 1 - (right - left) * (bottom - top) / (width * 1000) <= limit


def test_a_side_that_is_chosen_stays_and_the_other_one_follows():
    assert choose_size((1600, 900), base_px=64, multiple_px=16, width=64, height=64) == (64, 64)
    assert choose_size((1600, 900), base_px=64, multiple_px=16, width=160) == (160, 96)
    assert choose_size((1600, 900), base_px=64, multiple_px=16, height=96) == (176, 96)
    assert choose_size((16, 900), base_px=64, multiple_px=16, height=96) == (16, 96)
