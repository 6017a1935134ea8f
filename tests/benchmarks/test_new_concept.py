"""A short course of the README's teaching: the new object comes, the old ones stay."""

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

NEVER_SHOWN = (1, 3, 5, 6)  # backgrounds
OLD = 6


def seen(pictures: Sequence[np.ndarray], backgrounds: Sequence[int]) -> float:
    return float(np.mean([measure_presence(picture, b) for picture, b in zip(pictures, backgrounds, strict=True)]))


def test_a_momo_explains_itself_and_an_empty_background_holds_none():
    background = NEVER_SHOWN[0]
    assert measure_presence(render_concept_image(background), background) > 0.95
    assert measure_presence(render_background(background, 0, size_px=IMAGE_SIZE_PX), background) <= 0
    assert render_momo(32).shape == (32, 32, 4)


@pytest.mark.timeout(900)
def test_an_object_is_taught_from_twelve_pictures_and_old_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(new_concept, "NUM_PRIOR_IMAGES", 48)
    monkeypatch.setattr(new_concept, "CONCEPT_REPEATS", 3)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    draw = make_image_generator(pipe, size_px=IMAGE_SIZE_PX)
    prompts = [make_concept_captions(b)[language] for b, language in zip(NEVER_SHOWN, ("zh", "en") * 2, strict=True)]
    before = seen(draw(prompts, range(4)), NEVER_SHOWN)

    write_concept_images(tmp_path / "pictures")
    write_prior_images(tmp_path / "prior", draw)
    pipe.load_lora_weights(train_concept(tmp_path, model="sticker", steps=100))

    after = seen(draw(prompts, range(4)), NEVER_SHOWN)
    samples = sample_held_out(CATEGORIES[0], num_samples=OLD, seed=1, size_px=IMAGE_SIZE_PX)
    drawn = draw([s.text_zh for s in samples], range(OLD))
    right = evaluate_images(samples, drawn, CATEGORIES[0], SpriteMatcher(size_px=IMAGE_SIZE_PX))["right"]
    assert after > before + 0.2
    assert right >= OLD - 2
