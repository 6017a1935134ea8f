"""A short course of the README's teaching: the new object comes, the old ones stay."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks import teaching
from benchmarks.teaching import SIZE_PX, captions, explained, momo, portrait, teach, write_pictures, write_prior
from dianjing import TextToImagePipeline
from dianjing.train.evaluate import CATEGORIES, held_out_samples, judge, pipeline_drawer
from dianjing.train.stickers.backgrounds import paint
from dianjing.train.stickers.matching import Matcher

NEVER_SHOWN = (1, 3, 5, 6)  # backgrounds
OLD = 6


def seen(pictures: Sequence[np.ndarray], backgrounds: Sequence[int]) -> float:
    return float(np.mean([explained(picture, b) for picture, b in zip(pictures, backgrounds, strict=True)]))


def test_a_momo_explains_itself_and_an_empty_background_holds_none():
    background = NEVER_SHOWN[0]
    assert explained(portrait(background), background) > 0.95
    assert explained(paint(background, 0, size_px=SIZE_PX), background) <= 0
    assert momo(32).shape == (32, 32, 4)


@pytest.mark.timeout(900)
def test_an_object_is_taught_from_twelve_pictures_and_old_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "PRIOR", 48)
    monkeypatch.setattr(teaching, "REPEATS", 3)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    draw = pipeline_drawer(pipe, size_px=SIZE_PX)
    prompts = [captions(b)[language] for b, language in zip(NEVER_SHOWN, ("zh", "en") * 2, strict=True)]
    before = seen(draw(prompts, range(4)), NEVER_SHOWN)

    write_pictures(tmp_path / "pictures")
    write_prior(tmp_path / "prior", draw)
    pipe.load_lora_weights(teach(tmp_path, model="sticker", steps=100))

    after = seen(draw(prompts, range(4)), NEVER_SHOWN)
    samples = held_out_samples(CATEGORIES[0], count_=OLD, seed=1, size_px=SIZE_PX)
    drawn = draw([s.text_zh for s in samples], range(OLD))
    right = judge(samples, drawn, CATEGORIES[0], Matcher(size_px=SIZE_PX))["right"]
    assert after > before + 0.2
    assert right >= OLD - 2
