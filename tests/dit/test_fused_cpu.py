"""Fused blocks on a CPU in bfloat16: used where they can be, and at least as exact as unfused ones."""

import copy
import functools

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import attention_backend
from peft import LoraConfig

from dianjing.dit import fused_cpu
from dianjing.dit.blocks import DiTBlock

pytestmark = pytest.mark.skipif(not fused_cpu._has_bf16_kernels(), reason="this CPU has no bfloat16 kernels")
TIMESTEPS = torch.tensor([512.0, 16.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.fixture
def make_half(make_model, make_text):
    """A model and its text in bfloat16."""

    def make(**changes):
        model = make_model(**changes)
        text = {
            name: value.bfloat16() if value.is_floating_point() and name != "image_meta_size" else value
            for name, value in make_text(model).items()
        }
        return model.bfloat16(), text

    return make


@pytest.fixture
def calls(monkeypatch):
    """The blocks that run unfused."""
    calls = []
    forward = DiTBlock.forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        calls.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DiTBlock, "forward", counted)
    return calls


@pytest.mark.parametrize("max_fused_qkv", [0, 2**20])
@torch.no_grad()
def test_fused_blocks_are_at_least_as_exact(make_half, latents, calls, monkeypatch, max_fused_qkv):
    monkeypatch.setattr(fused_cpu, "MAX_FUSED_QKV", max_fused_qkv)
    model, text = make_half(num_attention_heads=4, attention_head_dim=16)
    residuals = (torch.randn(2, 16, 64).bfloat16(),)

    def predict():
        conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
        return model(latents, conditioning=conditioning, controlnet_block_samples=residuals).sample

    fused = predict()
    assert not calls
    monkeypatch.setattr("dianjing.dit.precompute.fuse_blocks", lambda blocks: None)
    unfused = predict()
    assert len(calls) == 4

    exact = copy.deepcopy(model).float()
    text = {name: value.float() if name.startswith("encoder") else value for name, value in text.items()}
    residuals = (residuals[0].float(),)
    expected = exact(latents.float(), TIMESTEPS[:1], **text, controlnet_block_samples=residuals).sample
    assert (fused - expected).norm() <= 1.1 * (unfused - expected).norm()
    assert (fused - expected).norm() <= 0.02 * expected.norm()


def add_adapter(model):
    model.add_adapter(LoraConfig(r=2, target_modules=["blocks.3.attn2.to_q"]))


def add_hook(model):
    model.blocks[1].attn1.to_k.register_forward_hook(lambda *_: None)


def compile_blocks(model):
    model.compile_repeated_blocks(backend="eager")


@pytest.mark.parametrize(
    "change",
    [
        add_adapter,
        add_hook,
        compile_blocks,
        lambda model: model.fuse_qkv_projections(),
        lambda model: model.enable_forward_chunking(4, dim=1),
        lambda model: model.set_attention_backend("_native_math"),
        lambda model: model.enable_cache(FirstBlockCacheConfig(threshold=1e-9)),
        lambda model: model.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16),
    ],
    ids=["adapter", "hook", "compiled", "fused_qkv", "chunks", "backend", "cache", "casting"],
)
@torch.no_grad()
def test_blocks_that_anything_has_changed_run_unfused(make_half, latents, calls, change):
    model, text = make_half()
    with attention_backend("native"):  # put the default of the process back afterwards
        change(model)
        conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
        assert conditioning.fused_blocks is None
        with model.cache_context("test"):
            model(latents, conditioning=conditioning)
    assert len(calls) == 4


def test_training_and_autocast_run_unfused(make_half, latents, calls):
    model, text = make_half()
    model(latents, TIMESTEPS, **text).sample.sum().backward()
    assert len(calls) == 4
    assert model.blocks[0].attn1.to_q.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(latents, TIMESTEPS, **text)
    assert len(calls) == 8


@torch.no_grad()
def test_a_cache_enabled_after_precomputation_still_acts(make_half, latents, calls):
    model, text = make_half()
    conditioning = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
    model.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    with model.cache_context("test"):
        model(latents, conditioning=conditioning)
    assert len(calls) == 4
