"""Choices that captions leave open: intervals that tile [0, 1), and scenes that match their interval."""

from collections import defaultdict

import pytest

from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.scenes import SCENE_TYPES


def get_scenes(scene_type, count, canonical_share=1.0):
    stage = CurriculumStage(scene_weights={scene_type: 1.0}, grid_px=(16, 1), canonical_share=canonical_share)
    world = StickerWorld(stages=[stage])
    return [world.get_image_sample(1, position) for position in range(count)]


@pytest.mark.parametrize("scene_type", SCENE_TYPES)
def test_the_options_of_a_choice_have_their_probabilities(scene_type):
    samples = [each for each in get_scenes(scene_type, 3000) if each.scene.relation is None]
    options = defaultdict(lambda: defaultdict(int))
    for sample in samples:
        kind = tuple(mention.count for mention in sample.scene.mentions)
        for choice, interval in enumerate(sample.choice_intervals):
            options[kind, choice][interval] += 1
    for found in options.values():
        ordered = sorted(found)
        assert [low for low, _ in ordered] == pytest.approx([0, *(high for _, high in ordered[:-1])])
        assert ordered[-1][1] == pytest.approx(1)
        if (total := sum(found.values())) > 300:
            for (low, high), count in found.items():
                expected = total * (high - low)
                assert abs(count - expected) < 5 * expected**0.5 + 1


def test_noise_decides_nothing_in_scenes_with_random_placement():
    samples = get_scenes("count", 200, canonical_share=0.5)
    assert {True, False} == {each.scene.is_canonical for each in samples}
    assert all(each.choice_intervals == ((0, 1), (0, 1)) for each in samples if not each.scene.is_canonical)


def test_a_relation_that_the_caption_names_leaves_no_arrangement_open():
    samples = [each for each in get_scenes("pair", 200) if each.scene.relation is not None]
    assert {each.choice_intervals[0] for each in samples} == {(0, 1)}


def test_an_interval_of_a_pair_says_where_its_first_object_is():
    sides = defaultdict(set)
    for sample in get_scenes("pair", 400):
        if sample.scene.relation is None:
            first, second = sample.scene.instances
            dx, dy = second.x_px - first.x_px, second.y_px - first.y_px
            side = ("left" if dx > 0 else "right") if abs(dx) > abs(dy) else ("above" if dy > 0 else "below")
            sides[sample.choice_intervals[0]].add(side)
    assert sorted(map(tuple, sides.values())) == [("above",), ("below",), ("left",), ("right",)]
