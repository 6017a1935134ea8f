"""Fixtures of the ControlNets' parity."""

import pytest
from PIL import Image, ImageDraw


@pytest.fixture
def vae_mode(monkeypatch):
    """Theirs samples the latents of control images, ours takes the mode."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.fixture
def line_art():
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).ellipse((10, 10, 40, 50), outline="white")
    return image
