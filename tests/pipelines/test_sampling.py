"""Parts of sampling: noise, guidance, and images to latents and back."""

import pytest
import torch
from diffusers import AutoencoderKL

from dianjing.pipelines.denoiser import apply_cfg
from dianjing.pipelines.sampling import sample_noise
from dianjing.pipelines.vae import ENCODE_BATCH_SIZE, decode_latents, encode_images, frames_to_pixels, pixels_to_uint8

CPU = torch.device("cpu")


def make_generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_each_row_of_noise_is_sampled_from_its_own_generator():
    noise = sample_noise((2, 4, 2, 2), make_generators(3, 4), device=CPU)
    assert torch.equal(noise[1:], sample_noise((1, 4, 2, 2), make_generators(4), device=CPU))
    batch = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_noise((3, 4, 8, 8), torch.Generator().manual_seed(0), device=CPU), batch)


def test_guidance_extrapolates_from_the_negative_through_the_positive_prediction():
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=0), negative)
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=1), positive)
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=3), negative + 3 * (positive - negative))


def test_full_rescale_restores_the_deviation_of_each_image():
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = apply_cfg(negative, positive, guidance_scale=7, guidance_rescale=1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2, 3)), positive.std(dim=(1, 2, 3)))


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=2, scaling_factor=0.3
    ).eval()


def test_encoded_images_are_scaled_modes_in_batches_of_any_size(vae):
    pixels = torch.rand(ENCODE_BATCH_SIZE + 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mode() * 0.3
    latents = encode_images(vae, pixels)
    torch.testing.assert_close(latents, expected)
    with torch.no_grad():
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(expected / 0.3).sample)


def test_frames_survive_the_conversion_to_pixels_and_back():
    frames = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(2, 8, 64, 3).numpy()
    pixels = frames_to_pixels(frames, device=CPU, dtype=torch.float32)
    assert pixels.shape == (2, 3, 8, 64)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert torch.equal(pixels_to_uint8(pixels), torch.from_numpy(frames).permute(0, 3, 1, 2))
