"""Matching of images: everything that is there is detected, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    evaluate_image_generation,
    evaluate_images,
    image_to_tensor,
    sample_held_out,
)
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.rendering import render_scene
from dianjing.train.stickers.scenes import SCENE_TYPES
from dianjing.train.stickers.sprite_classes import COLOURS

SIZE_PX = 64
WORLD = StickerWorld(
    size_px=SIZE_PX, stages=[CurriculumStage(scene_weights=dict.fromkeys(SCENE_TYPES, 1.0), grid_px=(16,))]
)


@pytest.fixture(scope="module")
def matcher():
    return SpriteMatcher(size_px=SIZE_PX)


def list_contents(objects):
    return sorted((each.class_id, -1 if each.colour is None else each.colour) for each in objects)


def test_the_objects_of_a_scene_are_detected_with_their_positions_and_sizes(matcher):
    for position in range(10):
        sample = WORLD.get_image_sample(11, position)
        detections = matcher.detect(image_to_tensor(sample.image))
        assert list_contents(detections.objects) == list_contents(sample.scene.instances), sample.text_en
        boxes = {(each.x_px, each.y_px, each.size_px) for each in detections.objects}
        assert boxes == {box[:3] for box in sample.boxes}
        assert all(each.explained_share > 0.99 for each in detections.objects)


def test_a_larger_image_is_read_as_a_small_one(matcher):
    world = StickerWorld(size_px=4 * SIZE_PX, stages=WORLD.stages)
    for position in range(10):
        sample = world.get_image_sample(11, position)
        pixels = image_to_tensor(sample.image)
        detections = matcher.detect(pixels)
        assert list_contents(detections.objects) == list_contents(sample.scene.instances), sample.text_en
        assert detections.background == sample.scene.background
        boxes = {tuple(round(value / 4) for value in box[:3]) for box in sample.boxes}
        assert {(each.x_px, each.y_px, each.size_px) for each in detections.objects} == boxes
        coloured = [each for each in detections.objects if each.colour is not None]
        assert [matcher.classify_colour(pixels, each) for each in coloured] == [each.colour for each in coloured]


def test_a_pale_and_thin_object_is_found_at_128_px():
    """A giraffe in the snow, which averages over 4 x 4 px would lose."""
    (sample,) = sample_held_out(CATEGORIES[1], num_samples=1, seed=77, size_px=128)
    assert "giraffe" in sample.text_en
    objects = SpriteMatcher(size_px=128).detect(image_to_tensor(sample.image)).objects
    assert list_contents(objects) == list_contents(sample.scene.instances)


@pytest.mark.parametrize(
    ("category", "words"),
    [
        pytest.param(1, "tooth and a campsite", id="pale on wallpaper"),
        pytest.param(1, "bicycle below a gorilla", id="grey in the rain"),
        pytest.param(2, "three bathtubs", id="three thin ones"),
        pytest.param(2, "four coats", id="four side by side"),
        pytest.param(3, "white socks", id="small and pale"),
    ],
)
def test_hard_images_are_read(matcher, category, words):
    """Images of 128 px that were read wrong: pale objects were not found, and one large coat in place of four."""
    samples = sample_held_out(CATEGORIES[category], num_samples=30, seed=888, size_px=2 * SIZE_PX)
    (sample,) = (each for each in samples if words in each.text_en)
    objects = matcher.detect(image_to_tensor(sample.image)).objects
    assert list_contents(objects) == list_contents(sample.scene.instances)


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_images_with_one_object_changed_are_wrong(matcher, category):
    """One object is missing, of another class, or of another colour."""
    random = np.random.default_rng(5)
    samples = sample_held_out(category, num_samples=4, seed=21, size_px=SIZE_PX)
    altered = []
    for sample in samples:
        first, *others = sample.scene.instances
        if first.colour is not None:
            others.append(replace(first, colour=(first.colour + int(random.integers(1, len(COLOURS)))) % len(COLOURS)))
        elif len(others) == 0:
            others.append(replace(first, class_id=(first.class_id + int(random.integers(1, 300))) % 300))
        altered.append(render_scene(replace(sample.scene, instances=tuple(others)), size_px=SIZE_PX))
    assert evaluate_images(samples, altered, category, matcher)["correct"] == 0
    assert evaluate_images(samples, [sample.image for sample in samples], category, matcher)["correct"] == 4


def test_noise_and_blur_do_not_hide_a_large_object(matcher):
    generator = torch.Generator().manual_seed(0)
    for sample in sample_held_out(CATEGORIES[0], num_samples=4, seed=3, size_px=SIZE_PX):
        pixels = image_to_tensor(sample.image)
        blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        disturbed = blurred + 0.05 * torch.randn(pixels.shape, generator=generator)
        assert sample.scene.instances[0].class_id in [each.class_id for each in matcher.detect(disturbed).objects]


@pytest.mark.parametrize("background", range(0, len(BACKGROUNDS), 5))
def test_an_empty_background_is_recognized_without_objects(matcher, background):
    detections = matcher.detect(image_to_tensor(render_background(background, 1, size_px=SIZE_PX)))
    assert detections.background == background
    assert detections.objects == ()


def test_a_background_is_recognized_behind_objects_that_cover_most_of_it(matcher):
    samples = sample_held_out(CATEGORIES[2], num_samples=100, seed=1, size_px=SIZE_PX)  # up to four objects
    generator = torch.Generator().manual_seed(0)
    num_correct = 0
    for sample in samples:
        pixels = image_to_tensor(sample.image)
        disturbed = pixels + 0.04 * torch.randn(pixels.shape, generator=generator)
        num_correct += matcher.match_background(disturbed)[0] == sample.scene.background
    assert num_correct >= 99


def test_the_colour_of_an_object_is_classified(matcher):
    samples = sample_held_out(CATEGORIES[3], num_samples=6, seed=5, size_px=SIZE_PX)
    for sample in samples:
        pixels = image_to_tensor(sample.image)
        (detection,) = matcher.detect(pixels).objects
        assert COLOURS[matcher.classify_colour(pixels, detection)] == COLOURS[sample.scene.mentions[0].colour]


def test_a_perfect_model_is_always_correct_and_one_that_ignores_its_prompt_never(matcher):
    images = {}
    for category in CATEGORIES:
        for sample in sample_held_out(category, num_samples=1, seed=0, size_px=SIZE_PX):
            images[sample.text_zh] = images[sample.text_en] = sample.image
    report, preview = evaluate_image_generation(
        lambda prompts, seeds: [images[prompt] for prompt in prompts], matcher, num_samples=1, seed=0
    )
    assert report["overall"] == {"zh": 1.0, "en": 1.0, "ground_truth": 1.0}
    assert report["background"] == {"zh": 1.0, "en": 1.0, "ground_truth": 1.0}
    assert len(preview) == 2 * len(CATEGORIES)

    unrelated = np.roll(render_background(10, 0, size_px=SIZE_PX), 16, axis=0)
    report, _ = evaluate_image_generation(
        lambda prompts, seeds: [unrelated for _ in prompts], matcher, num_samples=1, seed=0, categories=CATEGORIES[:2]
    )
    assert report["overall"]["zh"] == report["overall"]["en"] == 0.0
    assert report["overall"]["ground_truth"] == 1.0
