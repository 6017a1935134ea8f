"""A short fine-tuning on a new object: it is generated afterwards, and known objects still are."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks import new_concept
from benchmarks.new_concept import (
    IMAGE_SIZE_PX,
    make_concept_captions,
    measure_presence,
    render_concept_image,
    render_momo,
    train_concept,
    write_concept_images,
    write_prior_images,
)
from dianjing import TextToImagePipeline
from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    evaluate_images,
    make_image_generator,
    sample_held_out,
)
from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.matching import SpriteMatcher

EVALUATED_BACKGROUNDS = (1, 3, 5, 6)  # not trained on
NUM_PRIOR_PROMPTS = 6


def measure_mean_presence(images: Sequence[np.ndarray], backgrounds: Sequence[int]) -> float:
    return float(np.mean([measure_presence(image, b) for image, b in zip(images, backgrounds, strict=True)]))


def test_presence_is_high_for_the_object_and_zero_for_an_empty_background():
    background = EVALUATED_BACKGROUNDS[0]
    assert measure_presence(render_concept_image(background), background) > 0.95
    assert measure_presence(render_background(background, 0, size_px=IMAGE_SIZE_PX), background) <= 0
    assert render_momo(32).shape == (32, 32, 4)


@pytest.mark.timeout(900)
def test_a_new_object_is_learned_from_twelve_images_and_known_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(new_concept, "NUM_PRIOR_IMAGES", 48)
    monkeypatch.setattr(new_concept, "CONCEPT_REPEATS", 3)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    generate = make_image_generator(pipe, size_px=IMAGE_SIZE_PX)
    prompts = [
        make_concept_captions(b)[language] for b, language in zip(EVALUATED_BACKGROUNDS, ("zh", "en") * 2, strict=True)
    ]
    before = measure_mean_presence(generate(prompts, range(4)), EVALUATED_BACKGROUNDS)

    write_concept_images(tmp_path / "images")
    write_prior_images(tmp_path / "prior", generate)
    pipe.load_lora_weights(train_concept(tmp_path, model="sticker", steps=100))

    after = measure_mean_presence(generate(prompts, range(4)), EVALUATED_BACKGROUNDS)
    samples = sample_held_out(CATEGORIES[0], num_samples=NUM_PRIOR_PROMPTS, seed=1, size_px=IMAGE_SIZE_PX)
    images = generate([s.text_zh for s in samples], range(NUM_PRIOR_PROMPTS))
    right = evaluate_images(samples, images, CATEGORIES[0], SpriteMatcher(size_px=IMAGE_SIZE_PX))["correct"]
    assert after > before + 0.2
    assert right >= NUM_PRIOR_PROMPTS - 2
