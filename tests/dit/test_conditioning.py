"""Two phases: what is computed once, then the steps."""

import pytest
import torch

TIMESTEPS = torch.tensor([999.0, 500.0, 1.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("with_size", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3, 4])
@torch.no_grad()
def test_the_two_phases_equal_one_call_at_every_step(make_model, make_text, latents, with_size, num_layers):
    model = make_model(num_layers=num_layers, use_style_cond_and_image_meta_size=with_size)
    text = make_text(model)
    condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12))
    for step, timestep in enumerate(TIMESTEPS):
        once = model(latents, timestep.expand(2), **text).sample
        twice = model(latents, conditioning=condition.select_step(step)).sample
        assert torch.allclose(twice, once, atol=1e-5)


@torch.no_grad()
def test_rows_pick_and_repeat_prompts(make_model, make_text, latents):
    model = make_model()
    text = make_text(model)
    condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(1)
    whole = model(latents, conditioning=condition).sample
    second = model(latents[1:], conditioning=condition.index_batch(slice(1, 2))).sample
    assert torch.allclose(second, whole[1:], atol=1e-5)
    twice = model(latents[[0, 0, 1]], conditioning=condition.index_batch([0, 0, 1])).sample
    assert torch.allclose(twice, whole[[0, 0, 1]], atol=1e-5)


@torch.no_grad()
def test_controlnet_residuals_join_the_prepared_steps(make_model, make_text, latents):
    model = make_model()
    text, residuals = make_text(model), (torch.randn(2, 24, 24),)
    condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    once = model(latents, TIMESTEPS[:1], **text, controlnet_block_samples=residuals).sample
    twice = model(latents, conditioning=condition, controlnet_block_samples=residuals).sample
    plain = model(latents, conditioning=condition).sample
    assert torch.allclose(twice, once, atol=1e-5)
    assert not torch.allclose(twice, plain, atol=1e-3)


@torch.no_grad()
def test_filling_up_the_keys_changes_nothing(make_model, make_text, latents, monkeypatch):
    model = make_model(text_len=7, text_len_t5=10)  # 17 keys, filled up to 32
    text = make_text(model)
    condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    assert condition.text_keys[0].shape[1] == 32
    monkeypatch.setattr("dianjing.dit.conditioning.KEY_MULTIPLE", 1)
    bare = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 12)).select_step(0)
    assert bare.text_keys[0].shape[1] == 17
    filled = model(latents, conditioning=condition).sample
    assert torch.allclose(filled, model(latents, conditioning=bare).sample, atol=1e-5)


@torch.no_grad()
def test_what_does_not_fit_is_refused(make_model, make_text, latents):
    model = make_model()
    condition = model.compute_conditioning(TIMESTEPS, **make_text(model), latent_size=(8, 12))
    with pytest.raises(ValueError, match=r"3 steps; pick one with conditioning.select_step"):
        model(latents, conditioning=condition)
    with pytest.raises(IndexError, match="step 3 is outside the schedule of 3 steps"):
        condition.select_step(3)
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 12\), but latents of \(1, 1, 8, 12\)"):
        model(latents[:1], conditioning=condition.select_step(0))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 12\), but latents of \(2, 1, 8, 8\)"):
        model(latents[..., :8], conditioning=condition.select_step(0))
    with pytest.raises(ValueError, match="9 x 12 are not multiples of the patch size 2"):
        model.compute_conditioning(TIMESTEPS, **make_text(model), latent_size=(9, 12))
