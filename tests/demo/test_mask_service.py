"""The mask service: features are cached, bad points are refused."""

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.mask_service import MaskService


def test_the_features_of_an_image_are_computed_once_for_all_its_clicks():
    images = []

    class CountingSegmenter:
        def set_image(self, image):
            images.append(image)

        def predict(self, points):
            return np.zeros((32, 32), bool)

    masks = MaskService(CountingSegmenter)
    for _ in range(3):
        masks.predict_mask(Image.new("RGB", (32, 32)), [(3, 4), (5, 6)], [True, False])
    masks.predict_mask(Image.new("RGB", (64, 64)), [(3, 4)], [1])
    assert len(images) == 2


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([(3, 4)], [], "0 labels for 1 points"),
        ([(32, 4)], [1], "outside the image of 32 x 32 px"),
        ([(float("nan"), 4)], [1], "no position"),
        ([(3, 4)], [0], "all points are negative"),
        ([(3, 4)] * 100_000, [1] * 100_000, "100,000 points are given; at most 1,000"),
        ([], [], "no point is given"),
    ],
)
def test_bad_points_are_refused(points, labels, message):
    with pytest.raises(ValueError, match=message):
        MaskService().predict_mask(Image.new("RGB", (32, 32)), points, labels)
