"""Reading pictures back: the truth must be found, and nothing that is not there."""

import numpy as np
import pytest
import torch

from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    evaluate_image_generation,
    image_to_tensor,
    sample_held_out,
)
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.scenes import SCENE_TYPES
from dianjing.train.stickers.sprite_classes import COLOURS

SIZE_PX = 64
WORLD = StickerWorld(
    size_px=SIZE_PX, stages=[CurriculumStage(scene_weights=dict.fromkeys(SCENE_TYPES, 1.0), grid_px=(16,))]
)


@pytest.fixture(scope="module")
def matcher():
    return SpriteMatcher(size_px=SIZE_PX)


def contents(objects):
    return sorted((each.class_id, -1 if each.colour is None else each.colour) for each in objects)


def test_the_objects_of_a_scene_are_read_back_with_their_places_and_sizes(matcher):
    for position in range(10):
        sample = WORLD.get_image_sample(11, position)
        reading = matcher.detect(image_to_tensor(sample.image))
        assert contents(reading.objects) == contents(sample.scene.instances), sample.text_en
        boxes = {(seen.x_px, seen.y_px, seen.size_px) for seen in reading.objects}
        assert boxes == {box[:3] for box in sample.boxes}
        assert all(seen.explained_share > 0.99 for seen in reading.objects)


def test_a_larger_image_is_read_as_a_small_one(matcher):
    world = StickerWorld(size_px=4 * SIZE_PX, stages=WORLD.stages)
    for position in range(10):
        sample = world.get_image_sample(11, position)
        pixels = image_to_tensor(sample.image)
        detections = matcher.detect(pixels)
        assert contents(detections.objects) == contents(sample.scene.instances), sample.text_en
        assert detections.background == sample.scene.background
        boxes = {tuple(round(value / 4) for value in box[:3]) for box in sample.boxes}
        assert {(each.x_px, each.y_px, each.size_px) for each in detections.objects} == boxes
        coloured = [each for each in detections.objects if each.colour is not None]
        assert [matcher.classify_colour(pixels, each) for each in coloured] == [each.colour for each in coloured]


def test_noise_and_blur_do_not_hide_a_large_object(matcher):
    generator = torch.Generator().manual_seed(0)
    for sample in sample_held_out(CATEGORIES[0], num_samples=4, seed=3, size_px=SIZE_PX):
        pixels = image_to_tensor(sample.image)
        blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        spoilt = blurred + 0.05 * torch.randn(pixels.shape, generator=generator)
        assert sample.scene.instances[0].class_id in [seen.class_id for seen in matcher.detect(spoilt).objects]


@pytest.mark.parametrize("background", range(0, len(BACKGROUNDS), 5))
def test_an_empty_background_is_known_and_holds_nothing(matcher, background):
    reading = matcher.detect(image_to_tensor(render_background(background, 1, size_px=SIZE_PX)))
    assert reading.background == background
    assert reading.objects == ()


def test_a_background_is_known_behind_objects_that_cover_most_of_it(matcher):
    samples = sample_held_out(CATEGORIES[2], num_samples=100, seed=1, size_px=SIZE_PX)  # up to four objects
    generator = torch.Generator().manual_seed(0)
    right = 0
    for sample in samples:
        pixels = image_to_tensor(sample.image)
        spoilt = pixels + 0.04 * torch.randn(pixels.shape, generator=generator)
        right += matcher.match_background(spoilt)[0] == sample.scene.background
    assert right >= 99


def test_the_colour_of_an_object_is_read(matcher):
    samples = sample_held_out(CATEGORIES[3], num_samples=6, seed=5, size_px=SIZE_PX)
    for sample in samples:
        pixels = image_to_tensor(sample.image)
        (seen,) = matcher.detect(pixels).objects
        assert COLOURS[matcher.classify_colour(pixels, seen)] == COLOURS[sample.scene.mentions[0].colour]


def test_a_perfect_model_scores_everything_and_one_that_ignores_its_prompt_nothing(matcher):
    truth = {}
    for category in CATEGORIES:
        for sample in sample_held_out(category, num_samples=1, seed=0, size_px=SIZE_PX):
            truth[sample.text_zh] = truth[sample.text_en] = sample.image
    report, shown = evaluate_image_generation(
        lambda prompts, seeds: [truth[p] for p in prompts], matcher, num_samples=1, seed=0
    )
    assert report["overall"] == {"zh": 1.0, "en": 1.0, "ground_truth": 1.0}
    assert report["background"] == {"zh": 1.0, "en": 1.0, "ground_truth": 1.0}
    assert len(shown) == 2 * len(CATEGORIES)

    elsewhere = np.roll(render_background(10, 0, size_px=SIZE_PX), 16, axis=0)
    report, _ = evaluate_image_generation(
        lambda prompts, seeds: [elsewhere for _ in prompts], matcher, num_samples=1, seed=0, categories=CATEGORIES[:2]
    )
    assert report["overall"]["zh"] == report["overall"]["en"] == 0.0
    assert report["overall"]["ground_truth"] == 1.0
