"""The measurement of edits: its truth passes, the image that an edit starts from does not, and what changed is seen."""

import numpy as np
import pytest

from dianjing.train.evaluation.edits import KINDS, has_target, keeps_rest, make_masks, sample_edit, summarize_edits
from dianjing.train.stickers.matching import SpriteMatcher

SIZE_PX, RIM_PX = 64, 5


@pytest.fixture(scope="module")
def matcher():
    return SpriteMatcher.for_images(SIZE_PX)


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_scene_passes_and_the_source_does_not(kind, matcher):
    sample = sample_edit(kind, 0, seed=1, size_px=SIZE_PX)
    assert has_target(sample, sample.expected, matcher)
    assert not has_target(sample, sample.source, matcher)
    assert (sample.words is not None) == (kind == "words")


@pytest.mark.parametrize("size_px", [SIZE_PX, 128])
def test_nothing_but_the_box_differs_from_the_expected_scene(size_px):
    for position in range(20):
        sample = sample_edit("add", position, seed=0, size_px=size_px)
        x, y, side, _ = sample.box
        is_different = (sample.source != sample.expected).any(axis=2)
        assert is_different.any()
        is_different[y : y + side, x : x + side] = False
        assert not is_different.any()
        assert 0 <= sample.target.cell < 9


def test_a_new_background_leaves_the_objects_and_is_selected_by_a_mask_or_by_words():
    for position in range(6):
        sample = sample_edit("background", position, seed=0, size_px=SIZE_PX)
        difference = np.abs(sample.source.astype(int) - sample.expected).mean(axis=2)
        inside, outside = difference[sample.painted_mask].mean(), difference[~sample.painted_mask].mean()
        assert outside < inside / 2  # not zero: parts of objects are translucent
        assert (sample.words is None) == (position % 2 == 0)


def test_a_changed_pixel_outside_the_rim_is_counted():
    sample = sample_edit("replace", 0, seed=0, size_px=SIZE_PX)
    [mask] = make_masks(None, [sample], "en")
    assert mask[sample.box[1], sample.box[0]]
    assert keeps_rest(sample, sample.source, mask, rim_px=RIM_PX)
    image = sample.source.copy()
    image[mask] = 0
    assert keeps_rest(sample, image, mask, rim_px=RIM_PX)
    rows, columns = np.nonzero(~mask)
    distances = [
        np.hypot(*(np.argwhere(mask) - (row, column)).T).min() for row, column in zip(rows, columns, strict=True)
    ]
    far = int(np.argmax(distances))
    assert distances[far] > RIM_PX
    image[rows[far], columns[far]] ^= 1
    assert not keeps_rest(sample, image, mask, rim_px=RIM_PX)


def test_rates_are_over_all_edits_of_a_language():
    counts = {
        (kind, language): {"count": 4, "applied": 3, "unchanged": 4} for kind in KINDS for language in ("zh", "en")
    }
    counts["add", "zh"] = {"count": 4, "applied": 1, "unchanged": 2}
    report = summarize_edits(counts)
    assert report["add"] == {"zh": 0.25, "en": 0.75}
    assert report["overall"] == {"zh": 0.65, "en": 0.75}
    assert report["rest_identical"] == {"zh": 0.9, "en": 1.0}
    assert report["edits_per_language"] == 20
