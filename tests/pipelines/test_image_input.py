"""Images and masks as callers pass them: every form gives the same tensor, and what is none is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError
from dianjing.pipelines.image_input import read_masks, read_pixels, resize_pixels
from dianjing.pipelines.image_start import Overlay, repeat_rows, to_latent_mask


@pytest.fixture
def levels():
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_every_form_of_an_image_gives_the_same_pixels(levels):
    floats = levels.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    picture = Image.fromarray(levels)
    forms = [
        levels,
        floats,
        floats[None],
        tensor,
        tensor[None],
        2 * tensor - 1,
        [tensor],
        [picture],
        picture,
        levels[None],
    ]
    for form in [*forms, picture.convert("RGBA"), tensor.double()]:
        pixels = read_pixels(form, name="image")
        assert pixels.shape == (1, 3, 12, 20)
        torch.testing.assert_close(pixels, tensor[None], rtol=0, atol=1e-6)
    assert read_pixels([picture, levels, tensor[None]], name="image").shape == (3, 3, 12, 20)


def test_pixels_are_those_of_the_upright_image(levels):
    rotated = Image.fromarray(levels)
    rotated.getexif()[0x0112] = 6
    assert read_pixels(rotated, name="image").shape == (1, 3, 20, 12)


def test_every_form_of_a_mask_gives_the_same(levels):
    mask = levels[..., 0] > 127
    tensor = torch.from_numpy(mask)
    arrays = [mask, mask.astype(np.uint8) * 255, mask.astype(np.uint8), mask.astype(np.float32), mask[..., None]]
    tensors = [tensor, tensor[None], tensor[None, None].float()]
    for form in [*arrays, *tensors, Image.fromarray(mask), Image.fromarray(mask).convert("RGB"), [mask]]:
        masks = read_masks(form, name="mask_image")
        assert masks.dtype == torch.bool
        assert torch.equal(masks, tensor[None, None])
    assert read_masks([mask, tensor], name="mask_image").shape == (2, 1, 12, 20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image is missing"),
        ([], "image is missing"),
        ("cat.png", "image is str"),
        (np.zeros((8, 8), np.uint8), "image is ndarray"),
        (np.zeros((8, 8, 4), np.float32), "image is ndarray"),
        (np.zeros((8, 8, 3), np.int64), "image is ndarray"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "image is Tensor"),
        (torch.zeros(0, 3, 8, 8), "image is Tensor"),
        (torch.full((3, 8, 8), torch.nan), "NaN"),
        (np.full((8, 8, 3), np.inf, np.float32), "infinity"),
        (torch.full((3, 8, 8), 255.0), "from 255 to 255"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "8 x 8, 9 x 8"),
        (Image.new("RGB", (1, 100)), "1 x 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(DianjingError, match=message):
        read_pixels(image, name="image")


def test_scaling_keeps_the_mean_and_the_range(levels):
    pixels = read_pixels(levels, name="image")
    small = resize_pixels(pixels, height=6, width=10)
    assert small.shape == (1, 3, 6, 10)
    torch.testing.assert_close(small.mean(dim=(2, 3)), pixels.mean(dim=(2, 3)), rtol=0, atol=0.02)
    assert resize_pixels(small, height=64, width=64).max() <= 1


def test_a_latent_may_change_if_any_of_its_pixels_may():
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 7, 8] = True
    assert to_latent_mask(mask, (2, 2)).flatten().tolist() == [0, 1, 0, 0]


def test_rows_of_a_prompt_are_adjacent():
    assert repeat_rows(torch.tensor([1, 2]), 4).tolist() == [1, 1, 2, 2]


def test_an_overlay_changes_its_box_where_it_is_opaque(levels):
    pixels = 2 * read_pixels(levels, name="image") - 1
    alpha = torch.zeros(1, 1, 12, 20)
    alpha[..., 2:6, 4:8] = 1
    result = Overlay(pixels=pixels, alpha=alpha, box=(2, 1, 10, 9)).paste(torch.full((2, 3, 16, 16), 0.25))
    is_changed = (result != pixels).any(dim=1)
    assert torch.equal(is_changed, (alpha > 0)[:, 0].expand(2, -1, -1))
    assert torch.allclose(result[..., 2:6, 4:8], torch.tensor(0.25))
