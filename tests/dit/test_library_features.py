"""Offloading, casting, attention backends and caches of the libraries."""

import accelerate
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from dianjing.dit.attention import DiTAttnProcessor

TIMESTEPS = torch.tensor([900.0, 500.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def default_backend():
    with attention_backend("native"):  # set_attention_backend changes the default of the whole process
        yield


def predict_direct_and_precomputed(model, latents, text):
    with torch.no_grad():
        conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8))
        direct = model(latents, TIMESTEPS[1:], **text).sample
        return direct, model(latents, conditioning=conditioning.select_step(1)).sample


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_offloading_keeps_the_output(make_model, make_text, latents, tmp_path, offload_type, dtype):
    model, text = make_model().to(dtype), make_text(make_model())
    latents = latents.to(dtype)
    text = {name: value.to(dtype) if name.startswith("encoder") else value for name, value in text.items()}
    expected, _ = predict_direct_and_precomputed(model, latents, text)
    apply_group_offloading(
        model,
        onload_device="cpu",
        offload_device="cpu",
        offload_type=offload_type,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),  # weights not brought back are then undefined, not merely elsewhere
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    for sample in predict_direct_and_precomputed(model, latents, text):
        assert torch.allclose(sample, expected, atol=1e-5 if dtype == torch.float32 else 0.05)


def test_sequential_offloading_keeps_the_output(make_model, make_text, latents):
    model, text = make_model(), make_text(make_model())
    expected, _ = predict_direct_and_precomputed(model, latents, text)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    for sample in predict_direct_and_precomputed(model, latents, text):
        assert torch.allclose(sample, expected, atol=1e-5)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_layerwise_casting_stores_in_eight_bits_and_computes_in_sixteen(make_model, make_text, latents):
    model, text = make_model().bfloat16(), make_text(make_model())
    text = {name: value.bfloat16() if name.startswith("encoder") else value for name, value in text.items()}
    expected, _ = predict_direct_and_precomputed(model, latents.bfloat16(), text)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert model.blocks[0].norm2.weight.dtype == torch.bfloat16
    for sample in predict_direct_and_precomputed(model, latents.bfloat16(), text):
        assert (sample - expected).norm() < 0.2 * expected.norm()


def test_an_attention_backend_is_chosen_by_name(make_model, make_text, latents):
    model, text = make_model(), make_text(make_model())
    expected, _ = predict_direct_and_precomputed(model, latents, text)
    model.set_attention_backend("_native_math")
    processors = model.attn_processors.values()
    assert {processor._attention_backend for processor in processors} == {AttentionBackendName._NATIVE_MATH}
    for sample in predict_direct_and_precomputed(model, latents, text):
        assert torch.allclose(sample, expected, atol=1e-5)


def test_the_default_processor_takes_the_place_of_custom_ones(make_model, make_text, latents):
    class Zeros(DiTAttnProcessor):
        def __call__(self, attn, hidden_states, *inputs):
            return torch.zeros_like(hidden_states)

    model, text = make_model(), make_text(make_model())
    expected, _ = predict_direct_and_precomputed(model, latents, text)
    model.set_attn_processor(Zeros())
    assert not torch.allclose(predict_direct_and_precomputed(model, latents, text)[0], expected, atol=1e-3)
    model.set_default_attn_processor()
    assert torch.equal(predict_direct_and_precomputed(model, latents, text)[0], expected)


@pytest.mark.parametrize("backend", ["flash", "sage", "xformers"])
def test_an_absent_attention_backend_is_refused_with_the_package_to_install(make_model, backend):
    from diffusers.models import attention_dispatch as dispatch

    flags = {"flash": "_CAN_USE_FLASH_ATTN", "sage": "_CAN_USE_SAGE_ATTN", "xformers": "_CAN_USE_XFORMERS_ATTN"}
    if getattr(dispatch, flags[backend]):
        pytest.skip(f"{backend} is installed here")
    with pytest.raises(RuntimeError, match="Please install"):
        make_model().set_attention_backend(backend)


def test_an_unknown_attention_backend_is_refused_with_the_known_ones(make_model):
    with pytest.raises(ValueError, match="must be one of the following") as refusal:
        make_model().set_attention_backend("fastest")
    assert all(f" {name}," in f"{refusal.value}," for name in ("native", "xformers"))  # listed in any order


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=10.0),
        TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1, max_order=1),
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: torch.tensor(500)
        ),
    ],
    ids=lambda config: type(config).__name__,
)
@torch.no_grad()
def test_a_cache_over_the_steps_acts_and_can_be_switched_off(make_model, make_text, latents, config):
    model, text = make_model(), make_text(make_model())
    steps = [model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(step) for step in range(2)]
    plain = model(latents + 1, conditioning=steps[1]).sample
    model.enable_cache(config)
    with model.cache_context("test"):
        model(latents, conditioning=steps[0])
        cached = model(latents + 1, conditioning=steps[1]).sample
    assert not torch.allclose(cached, plain, atol=1e-4)
    model.disable_cache()
    assert torch.equal(model(latents + 1, conditioning=steps[1]).sample, plain)
