"""Caches of diffusers over the steps, on images and videos: each run is as if it were the first."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import apply_first_block_cache

from dianjing import DianjingError, DiT, TextToImagePipeline, TextToVideoPipeline

STEPS = 6


@pytest.fixture(scope="module")
def pipes(tiny_video_folder):
    """An image and a video pipeline over the same weights, whose motion blocks act."""
    video = TextToVideoPipeline.from_pretrained(tiny_video_folder)
    image = TextToImagePipeline.from_pipe(video)
    for pipe in (video, image):
        pipe.set_progress_bar_config(disable=True)
    return image, video


def make_config(name, pipes):
    def get_timestep():
        return next(pipe.current_timestep for pipe in pipes if pipe.current_timestep is not None)

    return {
        "first_block": lambda: FirstBlockCacheConfig(threshold=10.0),
        "taylor_seer": lambda: TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2),
        "pyramid": lambda: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=3,
            temporal_attention_block_skip_range=3,
            spatial_attention_timestep_skip_range=(0, 1000),
            temporal_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=get_timestep,
        ),
        "mag": lambda: MagCacheConfig(mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, retention_ratio=0.4),
    }[name]()


@pytest.fixture(params=["first_block", "taylor_seer", "pyramid", "mag"])
def cached_pipes(pipes, request):
    pipes[0].transformer.enable_cache(make_config(request.param, pipes))
    yield pipes
    pipes[0].transformer.disable_cache()


def generate(pipe, **settings):
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False, **settings}
    return pipe("a cat", generator=torch.Generator().manual_seed(0), **settings)[0]


def stop(pipe, step, timestep, tensors):
    if step == 3:
        raise KeyboardInterrupt
    return {}


def test_a_run_is_the_same_whatever_ran_before_it(cached_pipes):
    image, video = cached_pipes
    first, first_video = generate(image), generate(video)
    with image.transformer.without_cache():
        assert not torch.allclose(generate(image), first, atol=1e-4), "the cache does nothing"
        assert not torch.allclose(generate(video), first_video, atol=1e-4), "the cache does nothing"
    generate(image, height=48, width=32)
    generate(image, num_images_per_prompt=3)
    generate(image, guidance_scale=1.0)
    generate(video, num_frames=3)
    assert torch.equal(generate(image), first)
    for pipe in cached_pipes:
        with pytest.raises(KeyboardInterrupt):
            generate(pipe, callback_on_step_end=stop)
    assert torch.equal(generate(video), first_video)
    assert torch.equal(generate(image), first)


def test_guidance_that_ends_within_a_run_changes_no_shape_in_the_cache(cached_pipes):
    def end_guidance(pipe, step, timestep, tensors):
        if step == 2:
            pipe.guidance_scale = 1.0
        return {}

    for pipe in cached_pipes:
        assert generate(pipe, callback_on_step_end=end_guidance).isfinite().all()


def test_a_first_block_cache_that_never_hits_changes_nothing(pipes):
    image, video = pipes
    expected, expected_video = generate(image), generate(video)
    image.transformer.enable_cache(FirstBlockCacheConfig(threshold=-1.0))
    try:
        assert torch.equal(generate(image), expected)
        assert torch.equal(generate(video), expected_video)
    finally:
        image.transformer.disable_cache()


@torch.no_grad()
def test_motion_blocks_are_not_applied_again_to_a_cached_residual(tiny_video_folder):
    transformer = DiT.from_pretrained(tiny_video_folder / "transformer")
    for block in transformer.motion_blocks:  # of large effect
        torch.nn.init.normal_(block.attn1.to_out[0].weight, std=3)
    config = transformer.config
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, config.text_len, config.cross_attention_dim, generator=generator)
    states_t5 = torch.randn(1, config.text_len_t5, config.cross_attention_dim_t5, generator=generator)
    conditioning = transformer.compute_conditioning(
        torch.tensor([500.0]),
        encoder_hidden_states=states,
        encoder_hidden_states_t5=states_t5,
        latent_size=(4, 4),
        num_frames=3,
    )
    latents = torch.randn(1, 4, 3, 4, 4, generator=generator)
    expected = transformer(latents, conditioning=conditioning).sample
    transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with transformer.cache_context("test"):
        transformer(latents, conditioning=conditioning)
        cached = transformer(latents, conditioning=conditioning).sample  # of the same input: the residual is exact
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-4)


def test_several_windows_are_denoised_without_a_cache_and_with_a_warning(pipes, warnings):
    _, video = pipes
    expected = generate(video, num_frames=10, long_video="joint")
    video.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    try:
        assert torch.equal(generate(video, num_frames=10, long_video="joint"), expected)
        assert video.transformer.is_cache_enabled
    finally:
        video.transformer.disable_cache()
    assert any("several windows" in message for message in warnings)


def test_diffusers_functions_apply_a_cache_too(tiny_video_folder):
    pipe = TextToImagePipeline.from_pretrained(tiny_video_folder)
    pipe.set_progress_bar_config(disable=True)
    plain = generate(pipe)
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=10.0))
    first = generate(pipe)
    assert not torch.allclose(first, plain, atol=1e-4)
    generate(pipe, height=48, width=32)
    assert torch.equal(generate(pipe), first)


@pytest.mark.parametrize("name", ["FasterCacheConfig", "TextKVCacheConfig", "SeaCacheConfig"])
def test_a_cache_that_cannot_work_is_refused_with_those_that_do(pipes, name):
    with pytest.raises(DianjingError, match=rf"{name} does not work .*FirstBlockCacheConfig"):
        pipes[0].transformer.enable_cache(getattr(diffusers, name)())
    assert not pipes[0].transformer.is_cache_enabled


def test_a_second_cache_is_refused(pipes):
    transformer = pipes[0].transformer
    transformer.enable_cache(FirstBlockCacheConfig())
    try:
        with pytest.raises(DianjingError, match="disable_cache"):
            transformer.enable_cache(TaylorSeerCacheConfig())
    finally:
        transformer.disable_cache()


def test_a_video_of_the_bundle_is_planned_without_the_cache():
    pipe = TextToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)

    def generate_video():
        generator = torch.Generator().manual_seed(0)
        return pipe("一只小猫向右移动", num_frames=3, generator=generator, output_type="np").frames

    plain = generate_video()
    for config in (FirstBlockCacheConfig(threshold=0.05), TaylorSeerCacheConfig(cache_interval=2)):
        pipe.transformer.enable_cache(config)
        assert np.abs(generate_video() - plain).mean() < 0.02
        pipe.transformer.disable_cache()
    with pytest.raises(DianjingError, match="lite mode"):
        pipe.transformer.enable_cache(TaylorSeerCacheConfig(use_lite_mode=True))
