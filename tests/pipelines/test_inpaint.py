"""Inpainting: what is outside the mask stays as it is, what is inside changes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError, InpaintPipeline
from dianjing.pipelines.media.mask import grow_mask
from tests.pipelines.test_image_to_image import make_picture, reconstruct, seeded

RIM_PX = 6  # half a latent of 8 px, and its last pixel


@pytest.fixture
def inpaint(pipe):
    edit = InpaintPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    return edit


def make_mask(width=64, height=64):
    mask = np.zeros((height, width), bool)
    mask[height // 8 : height // 2, width // 4 : width // 2] = True
    return mask


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((64, 64), {}),
        ((64, 64), {"strength": 0.5}),
        ((70, 50), {}),
        ((200, 120), {}),
        ((200, 120), {"padding_mask_crop": 8}),
        ((200, 120), {"padding_mask_crop": 0}),
        ((64, 64), {"height": 32, "width": 32}),
    ],
    ids=str,
)
def test_pixels_outside_the_mask_are_identical(inpaint, size, settings):
    picture, mask = make_picture(*size), make_mask(*size)
    result = inpaint("a cat", picture, Image.fromarray(mask), num_inference_steps=2, **settings).images[0]
    assert result.size == picture.size
    before, after = np.asarray(picture), np.asarray(result)
    is_different = (before != after).any(axis=2)
    scale = max(1, max(size) / settings.get("width", 64))
    assert not (is_different & ~grow_mask(mask, radius_px=round(RIM_PX * scale))).any()
    assert is_different[mask].mean() > 0.9


def test_latents_outside_the_mask_are_those_of_the_image(inpaint):
    picture, mask = make_picture(), make_mask()
    latents = inpaint("a cat", picture, mask, num_inference_steps=2, output_type="latent").images
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = inpaint.vae.encode(pixels).latent_dist.mode() * inpaint.vae.config.scaling_factor
    is_outside = ~torch.from_numpy(mask).unflatten(0, (8, 8)).unflatten(2, (8, 8)).any(dim=3).any(dim=1)
    torch.testing.assert_close(latents[:, :, is_outside], expected[:, :, is_outside], rtol=0, atol=1e-5)
    assert (latents - expected)[:, :, ~is_outside].abs().mean() > 0.1


def test_strength_zero_reconstructs_inside_the_mask_alone(inpaint):
    picture, mask = make_picture(), make_mask()
    result = inpaint("a cat", picture, mask, strength=0, output_type="pt").images
    expected, mask = reconstruct(inpaint, picture), torch.from_numpy(mask)
    torch.testing.assert_close(result[..., mask], expected[..., mask], rtol=0, atol=1e-5)


def test_a_mask_of_everything_gives_what_text_to_image_gives(pipe, inpaint):
    settings = {"num_inference_steps": 2, "output_type": "latent", "height": 64, "width": 64}
    expected = pipe("a cat", generator=seeded(4), **settings).images
    result = inpaint("a cat", make_picture(), np.ones((64, 64), bool), generator=seeded(4), **settings).images
    assert (result - expected).abs().max() <= 1e-5


def test_a_crop_works_on_the_part_that_diffusers_crops(inpaint, monkeypatch):
    """diffusers' own pipelines crop by `get_crop_region`; the part is encoded at the size that is worked at."""
    picture, mask = make_picture(200, 120), make_mask(200, 120)
    box = inpaint.image_processor.get_crop_region(Image.fromarray(mask), 64, 48, pad=8)
    encoded = []
    encode = inpaint.vae.encode
    monkeypatch.setattr(inpaint.vae, "encode", lambda pixels: encoded.append(pixels) or encode(pixels))
    inpaint("a cat", picture, mask, padding_mask_crop=8, height=48, width=64, num_inference_steps=1)
    [pixels] = encoded
    part = picture.crop(box).resize((64, 48), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(part).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert (pixels - expected).abs().mean() < 0.02


def test_masks_and_images_belong_to_their_prompts(inpaint):
    pictures, prompts = [make_picture(seed=1), make_picture(seed=2)], ["a cat", "two red hearts"]
    masks = [make_mask(), make_mask().T]
    settings = {"num_inference_steps": 2, "output_type": "np"}
    together = inpaint(prompts, pictures, masks, generator=seeded(0, 1), **settings).images
    for index in range(2):
        alone = inpaint(prompts[index], pictures[index], masks[index], generator=seeded(index), **settings).images[0]
        np.testing.assert_allclose(together[index], alone, atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_image": None}, "mask_image is missing"),
        ({"mask_image": np.ones((32, 64), bool)}, "mask_image has 64 x 32 px"),
        ({"mask_image": np.zeros((64, 64), bool)}, "mask_image is empty"),
        ({"mask_image": Image.new("L", (64, 64))}, "mask_image is empty"),
        ({"mask_image": torch.full((64, 64), torch.nan)}, "NaN"),
        ({"mask_image": np.full((64, 64), np.nan)}, "no numbers"),
        ({"mask_image": torch.ones(3, 64, 64)}, "shape"),
        ({"mask_image": [np.ones((64, 64), bool)] * 3}, "3 images"),
        ({"strength": 1.5}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"padding_mask_crop": -1}, "padding_mask_crop"),
        ({"padding_mask_crop": 2.5}, "padding_mask_crop"),
        ({"image": torch.zeros(1, 4, 8, 8)}, "image is Tensor"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_computed(inpaint, arguments, message, monkeypatch):
    monkeypatch.setattr(inpaint, "vae", None)
    call = {"prompt": "a cat", "image": make_picture(), "mask_image": make_mask(), **arguments}
    with pytest.raises(DianjingError, match=message):
        inpaint(**call)
