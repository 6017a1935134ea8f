"""The benchmark of a new object: its matcher, its prompts, and a short run by the file of --init."""

from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.new_concept import (
    MATCHED_IMAGE_PX,
    MATCHED_SIZES_PX,
    PRESENCE_THRESHOLD,
    TRAIN_BACKGROUNDS,
    list_new_backgrounds,
    make_concept_captions,
    measure_presence,
    render_concept_image,
    render_lighthouse,
    train_concept,
    write_concept_images,
)
from dianjing import TextToImagePipeline
from dianjing.pipelines.vae import encode_images
from dianjing.train.config.run_file import read_run_config
from dianjing.train.data import prior_images
from dianjing.train.data.images import to_pixels
from dianjing.train.evaluation.image_generation import image_to_tensor
from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.rendering import composite_premultiplied
from dianjing.train.stickers.sprite_classes import load_sprite_classes
from dianjing.weights.registry import STICKER_FINETUNING


def test_true_compositions_are_recognized_at_every_size_also_through_the_autoencoder():
    assert render_lighthouse(32).shape == (32, 32, 4)
    pipe = TextToImagePipeline.from_pretrained("sticker", transformer=None)
    for index, background in enumerate(islice(list_new_backgrounds(24), 12)):
        size_px = list(MATCHED_SIZES_PX)[index % len(MATCHED_SIZES_PX)]
        image = render_concept_image(
            background, size_px=size_px, offset_px=(index % 5 - 2, 3 - index % 7), image_px=STICKER_FINETUNING.size_px
        )
        assert measure_presence(image, background) > 0.95
        latents = encode_images(pipe.vae, to_pixels(image_to_tensor(image)[None].mul(255).permute(0, 2, 3, 1).byte()))
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[0].clamp(-1, 1)
        pixels = ((decoded.detach().permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        assert measure_presence(pixels, background) > PRESENCE_THRESHOLD + 0.1


def test_empty_backgrounds_and_known_objects_are_not_confused_with_the_new_one():
    others = list_new_backgrounds(24)
    assert all(measure_presence(render_background(b, 0, size_px=MATCHED_IMAGE_PX), b) <= 0 for b in set(others))
    confused = []
    for index, sprite_class in enumerate(load_sprite_classes()[::8]):
        background = others[index % len(others)]
        canvas = render_background(background, 0, size_px=MATCHED_IMAGE_PX).copy()
        composite_premultiplied(canvas, get_sprite(sprite_class.id, size_px=32, colour=None), x=16, y=16)
        if measure_presence(canvas, background) > PRESENCE_THRESHOLD:
            confused.append(sprite_class.names_en[0])
    assert confused == []


def test_prompts_are_none_of_the_training_captions_and_of_no_known_word():
    trained = {text for background in TRAIN_BACKGROUNDS for text in make_concept_captions(background).values()}
    prompts = {text for background in list_new_backgrounds(24) for text in make_concept_captions(background).values()}
    assert len(TRAIN_BACKGROUNDS) == 12
    assert len(prompts) == 2 * (len(BACKGROUNDS) - 12)
    assert not trained & prompts
    pipe = TextToImagePipeline.from_pretrained("sticker", transformer=None, vae=None)
    assert all(pipe.find_unknown_words(prompt) in (["灯塔"], ["lighthouse"]) for prompt in prompts)


def test_run_file_is_that_of_init_with_the_defaults_of_the_model(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr("benchmarks.new_concept.train_model", lambda config, **options: runs.append(config))
    train_concept(tmp_path, model="sticker")
    (config,) = runs
    changed = {"folder": tmp_path / "run"}
    written = read_run_config(tmp_path / "run.toml")
    assert config.run == written.run.model_copy(update=changed)
    assert (config.optimizer, config.model, config.objective) == (written.optimizer, written.model, written.objective)
    assert config.run.total_steps == STICKER_FINETUNING.total_steps
    assert config.objective.prior_preservation == STICKER_FINETUNING.prior_preservation > 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 12


@pytest.mark.timeout(600)
def test_short_run_comes_nearer_to_the_object_and_hardly_changes_others(tmp_path, monkeypatch):
    monkeypatch.setattr(prior_images, "MIN_NUM_IMAGES", 8)
    write_concept_images(tmp_path / "pictures", image_px=STICKER_FINETUNING.size_px)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    backgrounds = list_new_backgrounds(4)
    prompts = [make_concept_captions(b)[language] for b, language in zip(backgrounds, ("zh", "en") * 2, strict=True)]

    def generate(texts):
        images = pipe(
            texts,
            num_inference_steps=15,
            output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(texts))],
        )
        return (images.images * 255).round().astype(np.uint8)

    def measure(images):
        return float(np.mean([measure_presence(image, b) for image, b in zip(images, backgrounds, strict=True)]))

    known = ["草地上的一只小猫", "a cat on the grass", "two red balloons at sea", "一辆公交车"]
    before, known_before = measure(generate(prompts)), generate(known).astype(float)
    overrides = ["run.total_steps=120", "samples.num_inference_steps=2", "objective.prior_preservation=1"]
    overrides += ['objective.prior_captions=["a cat on the grass", "草地上的一只小猫", "a dog", "海上的一条鱼"]']
    pipe.load_lora_weights(train_concept(tmp_path, model="sticker", overrides=overrides))
    assert measure(generate(prompts)) > before + 0.1
    assert np.abs(generate(known) - known_before).mean() < 8  # of 255
