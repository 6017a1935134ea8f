"""The error by which an image is judged: beside its contrast, whatever number of pixels a latent has."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from dianjing.pipelines.video.refinement import measure_autoencoder_error


def make_blurring_vae(num_levels, *, block_px):
    """An autoencoder that keeps nothing but the means of blocks of pixels."""
    return SimpleNamespace(
        dtype=torch.float32,
        device=torch.device("cpu"),
        config=FrozenDict(block_out_channels=(8,) * num_levels, scaling_factor=1.0),
        encode=lambda pixels: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: avg_pool2d(pixels, block_px))),
        decode=lambda latents, return_dict: (interpolate(latents, scale_factor=block_px),),
    )


@pytest.mark.parametrize(("num_levels", "block_px"), [(4, 4), (5, 8)])
def test_an_image_of_twice_the_size_has_the_same_error(num_levels, block_px):
    """By f8 latents, and by f16 latents of the image with every pixel doubled."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    expected = measure_autoencoder_error(make_blurring_vae(4, block_px=4), Image.fromarray(pixels))
    doubled = Image.fromarray(pixels.repeat(block_px // 4, 0).repeat(block_px // 4, 1))
    assert expected > 0.3
    error = measure_autoencoder_error(make_blurring_vae(num_levels, block_px=block_px), doubled)
    assert error == pytest.approx(expected, rel=0.01)


def test_detail_finer_than_the_measure_does_not_count():
    checks = np.indices((64, 64)).sum(0) % 2 * 40 + 100
    image = Image.fromarray(np.uint8(checks)).convert("RGB")
    assert measure_autoencoder_error(make_blurring_vae(4, block_px=2), image) == pytest.approx(
        20 / (2 * 40**2) ** 0.5, rel=0.02
    )
    assert measure_autoencoder_error(make_blurring_vae(5, block_px=2), image) == pytest.approx(0, abs=0.05)
