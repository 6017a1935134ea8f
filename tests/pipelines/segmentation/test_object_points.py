"""Points at the objects of held-out scenes of the sticker world, whose masks are known exactly."""

import numpy as np
import pytest

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.pipelines.segmentation.object_points import choose_object_points
from dianjing.pipelines.segmentation.unet import UNetSegmenter
from dianjing.train.evaluation.transparency import classify_background, sample_scenes
from dianjing.weights.resolve import resolve_model

RELEVANCE_SIZE = 8


@pytest.fixture(scope="module")
def segmenter():
    return UNetSegmenter.from_pretrained(resolve_model("sticker") / SEGMENTER_FOLDER)


@pytest.fixture(scope="module")
def scenes():
    """Scenes with two or three objects before textured backgrounds."""
    samples = sample_scenes(60, seed=21, size_px=128)
    textured = [each for each in samples if len(each.boxes) in (2, 3) and classify_background(each) == "textured"]
    return textured[:4]


def test_every_object_is_found_though_all_positions_are_equally_relevant(segmenter, scenes):
    relevance = np.ones((1, RELEVANCE_SIZE, RELEVANCE_SIZE))
    covered = []
    for sample in scenes:
        segmenter.set_image(sample.image)
        points = choose_object_points(segmenter, relevance, [len(sample.boxes)])
        found = np.any([segmenter.predict([point]) for point in points], axis=0)
        covered += [(found & mask).sum() / mask.sum() for mask in sample.masks]
    assert np.mean(np.array(covered) > 0.6) >= 0.9


def test_a_subject_has_its_point_on_the_object_next_to_its_peak(segmenter, scenes):
    sample = next(each for each in scenes if len(each.boxes) == 2)
    segmenter.set_image(sample.image)
    cell_px = sample.size_px / RELEVANCE_SIZE
    for mask, (x, y, side, _) in zip(sample.masks, sample.boxes, strict=True):
        relevance = np.full((1, RELEVANCE_SIZE, RELEVANCE_SIZE), 0.01)
        row, column = (min(int((start + side / 2) / cell_px), RELEVANCE_SIZE - 1) for start in (y, x))
        relevance[0, row, column] = 1.0
        (point,) = choose_object_points(segmenter, relevance, [1])
        assert mask[int(point.y), int(point.x)]
