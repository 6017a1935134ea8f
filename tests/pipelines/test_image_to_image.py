"""Image to image: the two ends of the strength, batches, forms of the image, and what is refused."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError, ImageToImagePipeline, TextToImagePipeline
from dianjing.train.stickers import StickerWorld


@pytest.fixture(scope="module")
def sticker():
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    edit = ImageToImagePipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    return pipe, edit


@pytest.fixture
def edit_pipe(pipe):
    edit = ImageToImagePipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    return edit


@pytest.fixture(scope="module")
def picture():
    return make_picture()


@pytest.fixture(scope="module")
def sticker_pictures():
    world = StickerWorld(size_px=128, split="held_out")
    return [Image.fromarray(world.get_image_sample(0, position).image) for position in range(3)]


def make_picture(width=64, height=64, seed=0):
    """Draw a smooth picture with a disc."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    rows, columns = np.mgrid[:height, :width]
    pixels[(rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(width, height) / 4) ** 2] = (250, 60, 40)
    return Image.fromarray(pixels)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def reconstruct(pipe, picture):
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def large_picture():
    """A picture of the bundled model's size."""
    return make_picture(128, 128)


def test_strength_zero_is_the_reconstruction_of_the_vae(sticker, large_picture):
    pipe, edit = sticker
    result = edit("a cat", large_picture, strength=0, generator=seeded(0), output_type="pt").images
    torch.testing.assert_close(result, reconstruct(pipe, large_picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [None, "DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_strength_one_gives_the_latents_of_text_to_image(sticker, large_picture, name, monkeypatch):
    pipe, edit = sticker
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    if name is not None:
        for each in sticker:
            monkeypatch.setattr(each, "scheduler", getattr(diffusers, name).from_config(pipe.trained_scheduler.config))
    expected = pipe("a cat", generator=seeded(3), **settings).images
    result = edit("a cat", large_picture, strength=1, generator=seeded(3), **settings).images
    assert (result - expected).abs().max() <= 1e-5


def test_changed_pixels_grow_with_the_strength(sticker, sticker_pictures):
    _, edit = sticker
    settings = {"num_inference_steps": 8, "output_type": "np"}
    prompts = ["一只小猫", "a red balloon", "two dogs"]
    images = [
        edit(prompts, sticker_pictures, strength=strength, generator=seeded(0, 1, 2), **settings).images
        for strength in (0, 0.25, 0.5, 0.75, 1)
    ]
    changes = [np.abs(each - images[0]).max(axis=3) for each in images]
    changed = [float(each.mean()) for each in changes]  # how many pixels change saturates earlier than how much they do
    assert changed == sorted(set(changed))
    assert changed[0] == 0
    assert (changes[-1] > 32 / 255).mean() > 0.9


def test_the_number_of_steps_follows_the_strength_as_in_diffusers(edit_pipe, picture):
    for strength, count in ((0, 0), (0.3, 1), (0.55, 2), (1, 4)):
        steps = []
        with edit_pipe.observe_steps(steps.append):
            edit_pipe("a cat", picture, strength=strength, num_inference_steps=4)
        assert len(steps) == count
        assert edit_pipe.num_timesteps == count


def test_latents_are_used_without_encoding(edit_pipe, picture):
    settings = {"strength": 0.5, "num_inference_steps": 2, "output_type": "np"}
    expected = edit_pipe("a cat", picture, generator=seeded(0), **settings).images
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = edit_pipe.vae.encode(pixels).latent_dist.mode() * edit_pipe.vae.config.scaling_factor
    result = edit_pipe("a cat", latents, generator=seeded(0), **settings).images
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_images_belong_to_their_prompts_whatever_the_batch(edit_pipe):
    pictures = [make_picture(seed=1), make_picture(seed=2)]
    settings = {"strength": 0.6, "num_inference_steps": 2, "output_type": "np"}
    prompts = ["a cat", "two red hearts"]
    together = edit_pipe(prompts, pictures, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), **settings).images
    for index in (1, 2):
        alone = edit_pipe(prompts[index // 2], pictures[index // 2], generator=seeded(index), **settings).images[0]
        np.testing.assert_allclose(together[index], alone, atol=2e-4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (64, 64)), ((70, 50), (64, 48)), ((640, 320), (96, 48)), ((8, 8), (64, 64)), ((32, 32), (64, 64))],
    ids=str,
)
def test_the_size_is_about_that_of_the_image_or_fits_the_model(edit_pipe, size, expected):
    assert edit_pipe.choose_start_size(size) == expected
    assert edit_pipe("a cat", make_picture(*size), strength=0).images[0].size == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "image is missing"),
        ({"strength": 1.01}, "strength"),
        ({"strength": -0.1}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": "0.5"}, "strength"),
        ({"image": np.full((64, 64, 3), np.nan, np.float32)}, "NaN"),
        ({"image": np.full((64, 64, 3), 2.0, np.float32)}, "from 2 to 2"),
        ({"image": np.zeros((64, 64), np.uint8)}, "image is ndarray"),
        ({"image": "cat.png"}, "image is str"),
        ({"image": []}, "image is missing"),
        ({"image": torch.zeros(0, 3, 64, 64)}, "image is Tensor"),
        ({"image": [Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))]}, "several sizes"),
        ({"image": [Image.new("RGB", (64, 64))] * 3}, "3 images"),
        ({"image": torch.full((1, 4, 8, 8), torch.nan)}, "NaN"),
        ({"height": 60}, "60"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_computed(
    edit_pipe, picture, arguments, message, monkeypatch
):
    monkeypatch.setattr(edit_pipe, "vae", None)
    with pytest.raises(DianjingError, match=message):
        edit_pipe(**{"prompt": "a cat", "image": picture, "height": 64, "width": 64, **arguments})


def test_a_scheduler_that_cannot_start_from_an_image_is_refused(edit_pipe, picture):
    class Mute(diffusers.DDIMScheduler):
        add_noise = property()

    edit_pipe.scheduler = Mute.from_config(edit_pipe.scheduler.config)
    with pytest.raises(DianjingError, match="cannot add noise"):
        edit_pipe("a cat", picture)
    edit_pipe.scheduler = diffusers.PNDMScheduler.from_config(edit_pipe.trained_scheduler.config)
    with pytest.raises(DianjingError, match="skip_prk_steps=True"):
        edit_pipe("a cat", picture)
