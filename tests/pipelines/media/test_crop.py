"""Scaling and crop of images of all sizes."""

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.crop import compute_crop_box, resize_crop

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
