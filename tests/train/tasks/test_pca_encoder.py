"""The encoder made of principal components."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dianjing.train.config.autoencoder import AutoencoderModelConfig
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.tasks.autoencoder import make_autoencoder
from dianjing.train.tasks.pca_encoder import copy_pca_encoder, extend_decoder, fold_to_conv, init_pca


def sticker_pixels(count: int, *, seed: int) -> torch.Tensor:
    """(count, 3, 32, 32) on [-1, 1]"""
    world = StickerWorld(size_px=32, stages=[CurriculumStage(scene_weights={"pair": 1.0}, grid_px=(1,))])
    images = np.stack([world.get_image_sample(seed, position).image for position in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


def make_vae(*, latent_channels: int = 8, whitening: float = 0.0) -> AutoencoderKL:
    model = AutoencoderModelConfig(
        latent_channels=latent_channels, block_out_channels=(16, 32, 48), norm_num_groups=8, encoder="pca"
    )
    vae = make_autoencoder(model, size_px=32)
    init_pca(vae, sticker_pixels(64, seed=0), whitening=whitening, log_variance=-6.0)
    return vae


def patches(pixels: torch.Tensor) -> np.ndarray:
    """Rows of 3 x 4 x 4 numbers."""
    return torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2).flatten(0, 1).double().numpy()


def test_latents_are_the_principal_components_of_new_images():
    training, new = sticker_pixels(64, seed=0), sticker_pixels(16, seed=1)
    mean = patches(training).mean(axis=0)
    _, _, axes = np.linalg.svd(patches(training) - mean, full_matrices=False)  # another method than that of init_pca
    expected = (patches(new) - mean) @ axes[:8].T
    with torch.no_grad():
        latents = make_vae().encode(new).latent_dist.mode().flatten(2).transpose(1, 2).flatten(0, 1).double().numpy()
    signs = np.sign((latents * expected).sum(axis=0))
    error = np.linalg.norm(latents - signs * expected) / np.linalg.norm(expected)
    assert error < 2e-3


def test_one_convolution_gives_the_same_latents():
    vae, new = make_vae(whitening=0.5), sticker_pixels(16, seed=1)
    layer = fold_to_conv(vae)
    assert layer is not None
    with torch.no_grad():
        expected, latents = vae.encode(new).latent_dist.mode(), layer(new)
    assert (latents - expected).norm() / expected.norm() < 2e-3


def test_an_encoder_that_was_trained_is_no_convolution():
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(16, 32, 48), norm_num_groups=8)
    assert fold_to_conv(make_autoencoder(model, size_px=32)) is None


def test_a_copied_encoder_gives_the_latents_of_the_reduced_image():
    source, larger = make_vae(whitening=0.5), torch.rand(16, 3, 64, 64) * 2 - 1
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(8, 16, 32, 48), norm_num_groups=8)
    vae = make_autoencoder(model, size_px=64)
    copy_pca_encoder(vae, source, larger, whitening=0.5, log_variance=-6.0)
    reduced = larger.unflatten(-1, (32, 2)).mean(-1).unflatten(-2, (32, 2)).mean(-2)
    with torch.no_grad():
        expected, latents = source.encode(reduced).latent_dist.mode(), vae.encode(larger).latent_dist.mode()
    assert latents.shape == (16, 8, 8, 8)
    assert (latents - expected).norm() / expected.norm() < 4e-3
    layer = fold_to_conv(vae)
    assert layer is not None
    with torch.no_grad():
        assert (layer(larger) - expected).norm() / expected.norm() < 4e-3


def test_an_extended_decoder_doubles_the_image_of_its_source():
    source, larger = make_vae(whitening=0.5), torch.rand(4, 3, 64, 64) * 2 - 1
    taps = torch.zeros(3, 3)
    taps[1, 1] = 1  # without neighbours, whose distance would be halved
    with torch.no_grad():
        source.decoder.conv_out.weight.mul_(taps)
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(16, 16, 32, 48), norm_num_groups=8)
    vae = make_autoencoder(model, size_px=64)
    copy_pca_encoder(vae, source, larger, whitening=0.5, log_variance=-6.0)
    assert extend_decoder(vae, source)
    latents = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        expected = source.decode(latents).sample.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        decoded = vae.decode(latents).sample
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("levels_before", [0, 1])
def test_further_channels_are_the_next_principal_components(levels_before):
    """From an encoder of as many levels, which may average pixels itself, or of one less."""
    training = sticker_pixels(64, seed=0)
    larger = training.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    source = make_vae(latent_channels=6, whitening=0.5)
    widths = {"block_out_channels": (16, 16, 32, 48), "norm_num_groups": 8}
    if levels_before:
        same_channels = AutoencoderModelConfig(latent_channels=6, **widths)
        averaging = make_autoencoder(same_channels, size_px=64)
        copy_pca_encoder(averaging, source, larger, whitening=0.5, log_variance=-6.0)
        source = averaging
    vae = make_autoencoder(AutoencoderModelConfig(latent_channels=9, **widths), size_px=64)
    copy_pca_encoder(vae, source, larger, whitening=0.5, log_variance=-6.0)
    with torch.no_grad():
        expected = make_vae(latent_channels=9, whitening=0.5).encode(training).latent_dist.mode()
        latents = vae.encode(larger).latent_dist.mode()
    signs = (latents * expected).sum(dim=(0, 2, 3)).sign().view(-1, 1, 1)
    assert (latents - signs * expected).norm() / expected.norm() < 4e-3
    assert (latents[:, 6:] - (signs * expected)[:, 6:]).norm() / expected[:, 6:].norm() < 2e-2


def test_further_channels_have_no_effect_on_an_extended_decoder():
    source = make_vae(latent_channels=6, whitening=0.5)
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(16, 32, 48), norm_num_groups=8)
    vae = make_autoencoder(model, size_px=32)
    copy_pca_encoder(vae, source, sticker_pixels(16, seed=0), whitening=0.5, log_variance=-6.0)
    assert extend_decoder(vae, source)
    latents = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(latents).sample, source.decode(latents[:, :6]).sample)


def test_a_decoder_of_other_widths_starts_anew():
    source = make_vae()
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(8, 16, 32, 48), norm_num_groups=8)
    vae = make_autoencoder(model, size_px=64)
    before = vae.decoder.conv_in.weight.clone()
    assert not extend_decoder(vae, source)
    assert torch.equal(vae.decoder.conv_in.weight, before)


def test_an_encoder_that_was_trained_is_not_copied():
    model = AutoencoderModelConfig(latent_channels=8, block_out_channels=(16, 32, 48), norm_num_groups=8)
    source, vae = make_autoencoder(model, size_px=32), make_vae()
    with pytest.raises(ValueError, match="encoder_from must be an autoencoder whose encoder computes principal"):
        copy_pca_encoder(vae, source, torch.zeros(2, 3, 32, 32), whitening=0.5, log_variance=-6.0)


def test_whitening_gives_components_the_same_variance():
    with torch.no_grad():
        latents = make_vae(whitening=1.0).encode(sticker_pixels(64, seed=0)).latent_dist.mode()
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(8), atol=0.01)


def test_only_the_decoder_is_trained():
    vae = make_vae()
    trained = {name.split(".")[0] for name, weights in vae.named_parameters() if weights.requires_grad}
    assert trained == {"decoder", "post_quant_conv"}


def test_too_many_components_for_the_channels_are_refused():
    with pytest.raises(
        ValueError,
        match=r"17 principal components do not fit .* block_out_channels \(32, 48\) in groups of 6, which hold 10",
    ):
        make_vae(latent_channels=17)
