"""The model as a module: configurations, gradients, saving, adapters, compilation."""

import pytest
import torch
from peft import LoraConfig

from dianjing import DiT

TIMESTEP = torch.tensor([500.0, 20.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def compute_gradients(model, latents, text):
    model.zero_grad()
    model(latents, TIMESTEP, **text).sample.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("has_size", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_gradients_reach_every_parameter(make_model, make_text, latents, has_size, num_layers):
    model = make_model(num_layers=num_layers, use_style_cond_and_image_meta_size=has_size)
    for name, gradient in compute_gradients(model, latents, make_text(model)).items():
        assert gradient.abs().sum() > 0 or name.endswith("pooler.k_proj.bias"), name  # softmax cancels that one


def test_gradient_checkpointing_gives_the_same_gradients(make_model, make_text, latents):
    model = make_model().train()
    text = make_text(model)
    plain = compute_gradients(model, latents, text)
    model.enable_gradient_checkpointing()
    for name, gradient in compute_gradients(model, latents, text).items():
        assert torch.allclose(gradient, plain[name], atol=1e-6), name


def test_a_sample_does_not_depend_on_its_batch(make_model, make_text, latents):
    model = make_model()
    text = make_text(model)
    both = model(latents, TIMESTEP, **text).sample
    second = model(latents[1:], TIMESTEP[1:], **{name: value[1:] for name, value in text.items()}).sample
    assert torch.allclose(second, both[1:], atol=1e-5)


def test_an_image_may_come_as_a_video_of_one_frame(make_model, make_text, latents):
    model = make_model(learn_sigma=False)
    text = make_text(model)
    video = model(latents.unsqueeze(2), TIMESTEP, **text).sample
    assert video.shape == (2, 4, 1, 8, 8)
    assert torch.equal(video[:, :, 0], model(latents, TIMESTEP, **text).sample)
    with pytest.raises(ValueError, match="2 frames, but this model makes images only"):
        model(latents.unsqueeze(2).expand(2, 4, 2, 8, 8), TIMESTEP, **text)
    with pytest.raises(ValueError, match=r"\(2, 4, 64\)"):
        model(latents.flatten(2), TIMESTEP, **text)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("activation_fn", ["gelu-approximate", "gelu", "geglu"])
def test_patches_and_activations_keep_the_shape(make_model, make_text, latents, patch_size, activation_fn):
    model = make_model(patch_size=patch_size, activation_fn=activation_fn)
    assert model(latents, TIMESTEP, **make_text(model)).sample.shape == (2, 8, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 25}, "leave it out or give 24"),
        ({"attention_head_dim": 10}, "not a multiple of 4"),
        ({"cross_attention_dim_t5": 20}, "not a multiple of the 8 heads that pool the text"),
        ({"norm_type": "rms_norm"}, "the only one is 'layer_norm'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(make_model, changes, message):
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


def test_inputs_that_do_not_fit_are_refused(make_model, make_text, latents):
    model = make_model()
    text = make_text(model)
    with pytest.raises(ValueError, match="give either conditioning, or timestep"):
        model(latents)
    with pytest.raises(ValueError, match="text states of both encoders"):
        model(latents, TIMESTEP)
    with pytest.raises(ValueError, match=r"image_meta_size \(B, 6\)"):
        model(latents, TIMESTEP, **{**text, "style": None})
    with pytest.raises(ValueError, match="texts of 4, 6 tokens from the two encoders; this model takes 5, 6"):
        model(latents, TIMESTEP, **{**text, "encoder_hidden_states": text["encoder_hidden_states"][:, 1:]})
    with pytest.raises(ValueError, match="2 ControlNet residuals, but this model has 1 skip connections"):
        model(latents, TIMESTEP, **text, controlnet_block_samples=[torch.zeros(2, 16, 24)] * 2)


@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_saving_and_loading_keeps_the_output(make_model, make_text, latents, tmp_path, max_shard_size):
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    loaded = DiT.from_pretrained(tmp_path)
    text = make_text(model)
    assert dict(loaded.config)["hidden_size"] == 24
    assert torch.equal(loaded(latents, TIMESTEP, **text).sample, model(latents, TIMESTEP, **text).sample)


def test_a_lora_adapter_is_added_saved_and_loaded(make_model, make_text, latents, tmp_path):
    model, text = make_model(), make_text(make_model())
    plain = model(latents, TIMESTEP, **text).sample
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    adapted = model(latents, TIMESTEP, **text).sample
    assert not torch.allclose(adapted, plain, atol=1e-3)

    model.save_lora_adapter(tmp_path)
    fresh = make_model()
    fresh.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    assert torch.allclose(fresh(latents, TIMESTEP, **text).sample, adapted, atol=1e-5)
    conditioning = fresh.compute_conditioning(TIMESTEP[:1], **text, latent_size=(8, 8))
    direct = fresh(latents, TIMESTEP[:1], **text).sample
    assert torch.allclose(fresh(latents, conditioning=conditioning).sample, direct, atol=1e-5)
    fresh.disable_adapters()
    assert torch.allclose(fresh(latents, TIMESTEP, **text).sample, plain, atol=1e-5)


def test_fused_projections_of_diffusers_change_nothing(make_model, make_text, latents):
    model = make_model()
    text = make_text(model)
    plain = model(latents, TIMESTEP, **text).sample
    model.fuse_qkv_projections()
    assert torch.allclose(model(latents, TIMESTEP, **text).sample, plain, atol=1e-5)


def test_one_graph_serves_direct_and_precomputed_calls(make_model, make_text, latents):
    torch._dynamo.reset()  # graphs of other tests count toward the limit
    model = make_model()
    text = make_text(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    plain = model(latents, TIMESTEP, **text).sample
    assert torch.allclose(compiled(latents, TIMESTEP, **text).sample, plain, atol=1e-5)
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        conditioning = model.compute_conditioning(torch.tensor([900.0, 500.0, 20.0]), **text, latent_size=(8, 8))
        for step in range(3):
            plain = model(latents, conditioning=conditioning.select_step(step)).sample
            assert torch.allclose(
                compiled(latents, conditioning=conditioning.select_step(step)).sample, plain, atol=1e-5
            )


def test_training_compiles_into_one_graph_under_autocast(make_model, make_text, latents):
    model = make_model().train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        compiled(latents, TIMESTEP, **make_text(model)).sample.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_blocks_compile_one_by_one(make_model, make_text, latents):
    model, text = make_model(num_layers=2), make_text(make_model())
    plain = model(latents, TIMESTEP, **text).sample
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.allclose(model(latents, TIMESTEP, **text).sample, plain, atol=1e-5)
