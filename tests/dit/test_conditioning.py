"""Conditioning computed direct gives what a single call gives, at every step."""

import pytest
import torch

TIMESTEPS = torch.tensor([999.0, 500.0, 1.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("has_size", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3, 4])
@torch.no_grad()
def test_a_precomputed_conditioning_gives_what_one_call_gives_at_every_step(
    make_model, make_text, latents, has_size, num_layers
):
    model = make_model(num_layers=num_layers, use_style_cond_and_image_meta_size=has_size)
    text = make_text(model)
    conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12))
    for step, timestep in enumerate(TIMESTEPS):
        direct = model(latents, timestep.expand(2), **text).sample
        precomputed = model(latents, conditioning=conditioning.select_step(step)).sample
        assert torch.allclose(precomputed, direct, atol=1e-5)


@torch.no_grad()
def test_indexing_the_batch_picks_and_repeats_prompts(make_model, make_text, latents):
    model = make_model()
    text = make_text(model)
    conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(1)
    both = model(latents, conditioning=conditioning).sample
    second = model(latents[1:], conditioning=conditioning.index_batch(slice(1, 2))).sample
    assert torch.allclose(second, both[1:], atol=1e-5)
    precomputed = model(latents[[0, 0, 1]], conditioning=conditioning.index_batch([0, 0, 1])).sample
    assert torch.allclose(precomputed, both[[0, 0, 1]], atol=1e-5)


@torch.no_grad()
def test_controlnet_residuals_are_added_at_precomputed_steps(make_model, make_text, latents):
    model = make_model()
    text, residuals = make_text(model), (torch.randn(2, 24, 24),)
    conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    direct = model(latents, TIMESTEPS[:1], **text, controlnet_block_samples=residuals).sample
    precomputed = model(latents, conditioning=conditioning, controlnet_block_samples=residuals).sample
    plain = model(latents, conditioning=conditioning).sample
    assert torch.allclose(precomputed, direct, atol=1e-5)
    assert not torch.allclose(precomputed, plain, atol=1e-3)


@torch.no_grad()
def test_padding_the_text_changes_nothing(make_model, make_text, latents, monkeypatch):
    model = make_model(text_len=7, text_len_t5=10)  # 17 keys, padded to 32
    text = make_text(model)
    conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    assert conditioning.text_keys[0].shape[1] == 32
    monkeypatch.setattr("dianjing.dit.conditioning.KEY_MULTIPLE", 1)
    unpadded = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    assert unpadded.text_keys[0].shape[1] == 17
    padded = model(latents, conditioning=conditioning).sample
    assert torch.allclose(padded, model(latents, conditioning=unpadded).sample, atol=1e-5)


@torch.no_grad()
def test_a_conditioning_that_does_not_fit_is_refused(make_model, make_text, latents):
    model = make_model()
    conditioning = model.compute_conditioning(TIMESTEPS, **make_text(model), latent_size=(8, 12))
    with pytest.raises(ValueError, match=r"3 steps; choose one with conditioning.select_step"):
        model(latents, conditioning=conditioning)
    with pytest.raises(IndexError, match="step 3 is outside the schedule of 3 steps"):
        conditioning.select_step(3)
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 12\), but the latents are \(1, 1, 8, 12\)"):
        model(latents[:1], conditioning=conditioning.select_step(0))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 12\), but the latents are \(2, 1, 8, 8\)"):
        model(latents[..., :8], conditioning=conditioning.select_step(0))
    with pytest.raises(ValueError, match=r"9 x 12 \(height x width\) are not multiples of the patch size 2"):
        model.compute_conditioning(TIMESTEPS, **make_text(model), latent_size=(9, 12))
