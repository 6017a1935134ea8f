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
    verdicts = few_steps._compare_category(0, settings=EvaluationSettings(num_samples=1))
    native_px = TextToImagePipeline.from_pretrained("sticker").default_size_px
    assert made == [(True, native_px), (False, native_px)]
    assert verdicts == {"few": [False, False], "slow": [False, False]}  # of black images
