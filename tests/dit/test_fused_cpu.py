"""Blocks frozen for a CPU in bfloat16: used where they hold, and at least as exact as the plain ones."""

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
    """Counts the plain blocks that run."""
    seen = []
    forward = DiTBlock.forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        seen.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DiTBlock, "forward", counted)
    return seen


@pytest.mark.parametrize("joined_limit", [0, 2**20])
@torch.no_grad()
def test_frozen_blocks_are_at_least_as_exact(make_half, latents, calls, monkeypatch, joined_limit):
    monkeypatch.setattr(fused_cpu, "MAX_FUSED_QKV", joined_limit)
    model, text = make_half(num_attention_heads=4, attention_head_dim=16)
    residuals = (torch.randn(2, 16, 64).bfloat16(),)

    def draw():
        condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
        return model(latents, conditioning=condition, controlnet_block_samples=residuals).sample

    fast = draw()
    assert not calls
    monkeypatch.setattr("dianjing.dit.precompute.fuse_blocks", lambda blocks: None)
    plain = draw()
    assert len(calls) == 4

    exact = copy.deepcopy(model).float()
    text = {name: value.float() if name.startswith("encoder") else value for name, value in text.items()}
    residuals = (residuals[0].float(),)
    expected = exact(latents.float(), TIMESTEPS[:1], **text, controlnet_block_samples=residuals).sample
    assert (fast - expected).norm() <= 1.1 * (plain - expected).norm()
    assert (fast - expected).norm() <= 0.02 * expected.norm()


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
        lambda model: model.set_attention_backend("_native_math"),
        lambda model: model.enable_cache(FirstBlockCacheConfig(threshold=1e-9)),
        lambda model: model.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16),
    ],
    ids=["adapter", "hook", "compiled", "joined", "backend", "cache", "casting"],
)
@torch.no_grad()
def test_whatever_changes_a_block_makes_it_run_plainly(make_half, latents, calls, change):
    model, text = make_half()
    with attention_backend("native"):  # put the default of the process back afterwards
        change(model)
        condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
        assert condition.fused_blocks is None
        with model.cache_context("test"):
            model(latents, conditioning=condition)
    assert len(calls) == 4


def test_training_and_autocast_run_plainly(make_half, latents, calls):
    model, text = make_half()
    model(latents, TIMESTEPS, **text).sample.sum().backward()
    assert len(calls) == 4
    assert model.blocks[0].attn1.to_q.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(latents, TIMESTEPS, **text)
    assert len(calls) == 8


@torch.no_grad()
def test_a_cache_enabled_after_the_condition_still_acts(make_half, latents, calls):
    model, text = make_half()
    condition = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8)).select_step(0)
    model.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    with model.cache_context("test"):
        model(latents, conditioning=condition)
    assert len(calls) == 4
