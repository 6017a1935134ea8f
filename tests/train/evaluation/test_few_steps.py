"""The comparison of a model's adapter for few steps with the model alone."""

import numpy as np

from dianjing import TextToImagePipeline
from dianjing.train.evaluation import few_steps
from dianjing.train.evaluation.settings import EvaluationSettings


def test_both_variants_generate_at_the_models_own_size(monkeypatch):
    made = []

    def make_generator(pipeline, *, size_px):
        made.append((pipeline.default_adapter is not None, size_px))
        return lambda prompts, seeds: [np.zeros((size_px, size_px, 3), np.uint8) for _ in prompts]

    monkeypatch.setattr(few_steps, "make_image_generator", make_generator)
    results = few_steps._compare_chunk((0, "en", 0), settings=EvaluationSettings(num_samples=1))
    native_px = TextToImagePipeline.from_pretrained("sticker").default_size_px
    assert made == [(True, native_px), (False, native_px)]
    (result,) = results
    assert (result.category, result.language, result.few, result.slow) == ("single_object", "en", False, False)  # black


def test_chunks_take_the_prompts_and_seeds_of_one_chunk_of_all(monkeypatch):
    """Chunks of one image together draw what one chunk of all images draws, and with the same seeds."""
    requested = []

    def check_images(samples, generate, category, matcher, *, language, seed):
        requested.extend((sample.text_en, seed + position) for position, sample in enumerate(samples))
        return [True] * len(samples)

    monkeypatch.setattr(few_steps, "check_images", check_images)
    settings = EvaluationSettings(num_samples=3, seed=5)
    few_steps._compare_chunk((1, "en", 0), settings=settings)
    together = requested.copy()
    requested.clear()
    monkeypatch.setattr(few_steps, "CHUNK_SIZE", 1)
    for first in range(3):
        few_steps._compare_chunk((1, "en", first), settings=settings)
    assert sorted(requested) == sorted(together)
    assert {seed for _, seed in together} == {5, 6, 7}


def test_rows_are_of_categories_languages_and_small_objects():
    rows = [("single_object", "zh", True, False, True), ("single_object", "en", False, True, True)]
    rows += [("counting", "zh", False, True, False), ("counting", "en", False, True, True)]
    report = few_steps.summarize_pairs([few_steps.PairedResult(*row) for row in rows])
    assert list(report) == ["single_object", "counting", "small_objects", "zh", "en", "overall"]
    assert report["small_objects"]["count"] == 1
    assert (report["zh"]["few"], report["en"]["few"]) == (0.5, 1.0)
    expected = {"few": 0.75, "slow": 0.75, "points_lost": 0.0, "few_alone": 1, "slow_alone": 1, "count": 4}
    assert report["overall"] == expected
    assert report["single_object"]["points_lost"] == 50.0
