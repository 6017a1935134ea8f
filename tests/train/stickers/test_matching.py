"""Reading pictures back: the truth must be found, and nothing that is not there."""

import numpy as np
import pytest
import torch

from dianjing.train.evaluate import CATEGORIES, evaluate, held_out_samples, to_tensor
from dianjing.train.stickers import Stage, World
from dianjing.train.stickers.backgrounds import BACKGROUNDS, paint
from dianjing.train.stickers.matching import Matcher
from dianjing.train.stickers.objects import COLOURS
from dianjing.train.stickers.scenes import KINDS

SIZE_PX = 64
WORLD = World(size_px=SIZE_PX, stages=[Stage(kinds=dict.fromkeys(KINDS, 1.0), snap_px=(16,))])


@pytest.fixture(scope="module")
def matcher():
    return Matcher(size_px=SIZE_PX)


def contents(objects):
    return sorted((each.thing, -1 if each.colour is None else each.colour) for each in objects)


def test_the_objects_of_a_scene_are_read_back_with_their_places_and_sizes(matcher):
    for position in range(10):
        sample = WORLD.picture(11, position)
        reading = matcher.read(to_tensor(sample.image))
        assert contents(reading.objects) == contents(sample.scene.items), sample.text_en
        boxes = {(seen.x_px, seen.y_px, seen.size_px) for seen in reading.objects}
        assert boxes == {box[:3] for box in sample.boxes}
        assert all(seen.explained > 0.99 for seen in reading.objects)


def test_a_larger_picture_is_read_as_a_small_one(matcher):
    world = World(size_px=4 * SIZE_PX, stages=WORLD.stages)
    for position in range(10):
        sample = world.picture(11, position)
        pixels = to_tensor(sample.image)
        reading = matcher.read(pixels)
        assert contents(reading.objects) == contents(sample.scene.items), sample.text_en
        assert reading.background == sample.scene.background
        boxes = {tuple(round(value / 4) for value in box[:3]) for box in sample.boxes}
        assert {(seen.x_px, seen.y_px, seen.size_px) for seen in reading.objects} == boxes
        coloured = [seen for seen in reading.objects if seen.colour is not None]
        assert [matcher.colour_of(pixels, seen) for seen in coloured] == [seen.colour for seen in coloured]


def test_noise_and_blur_do_not_hide_a_large_object(matcher):
    generator = torch.Generator().manual_seed(0)
    for sample in held_out_samples(CATEGORIES[0], count_=4, seed=3, size_px=SIZE_PX):
        pixels = to_tensor(sample.image)
        blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        spoilt = blurred + 0.05 * torch.randn(pixels.shape, generator=generator)
        assert sample.scene.items[0].thing in [seen.thing for seen in matcher.read(spoilt).objects]


@pytest.mark.parametrize("background", range(0, len(BACKGROUNDS), 5))
def test_an_empty_background_is_known_and_holds_nothing(matcher, background):
    reading = matcher.read(to_tensor(paint(background, 1, size_px=SIZE_PX)))
    assert reading.background == background
    assert reading.objects == ()


def test_a_background_is_known_behind_objects_that_cover_most_of_it(matcher):
    samples = held_out_samples(CATEGORIES[2], count_=100, seed=1, size_px=SIZE_PX)  # up to four objects
    generator = torch.Generator().manual_seed(0)
    right = 0
    for sample in samples:
        pixels = to_tensor(sample.image)
        spoilt = pixels + 0.04 * torch.randn(pixels.shape, generator=generator)
        right += matcher.background(spoilt)[0] == sample.scene.background
    assert right >= 99


def test_the_colour_of_an_object_is_read(matcher):
    samples = held_out_samples(CATEGORIES[3], count_=6, seed=5, size_px=SIZE_PX)
    for sample in samples:
        pixels = to_tensor(sample.image)
        (seen,) = matcher.read(pixels).objects
        assert COLOURS[matcher.colour_of(pixels, seen)] == COLOURS[sample.scene.mentions[0].colour]


def test_a_perfect_model_scores_everything_and_one_that_ignores_its_prompt_nothing(matcher):
    truth = {}
    for category in CATEGORIES:
        for sample in held_out_samples(category, count_=1, seed=0, size_px=SIZE_PX):
            truth[sample.text_zh] = truth[sample.text_en] = sample.image
    report, shown = evaluate(lambda prompts, seeds: [truth[p] for p in prompts], matcher, count=1, seed=0)
    assert report["overall"] == {"zh": 1.0, "en": 1.0, "ceiling": 1.0}
    assert report["background"] == {"zh": 1.0, "en": 1.0, "ceiling": 1.0}
    assert len(shown) == 2 * len(CATEGORIES)

    elsewhere = np.roll(paint(10, 0, size_px=SIZE_PX), 16, axis=0)
    report, _ = evaluate(
        lambda prompts, seeds: [elsewhere for _ in prompts], matcher, count=1, seed=0, categories=CATEGORIES[:2]
    )
    assert report["overall"]["zh"] == report["overall"]["en"] == 0.0
    assert report["overall"]["ceiling"] == 1.0
