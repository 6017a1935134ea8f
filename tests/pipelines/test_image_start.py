"""Sampling that starts from an image: with every scheduler the noise of each step, and what a mask keeps."""

import pytest
import torch

from dianjing.pipelines.image_start import ImageStart
from dianjing.pipelines.schedulers import (
    DIFFUSION_SCHEDULERS,
    FLOW_ONLY_SCHEDULERS,
    prepare_extra_step_kwargs,
    scale_model_input,
    set_timesteps,
)
from tests.pipelines.test_schedulers import (
    CLASSES,
    CONSISTENCY_SCHEDULERS,
    CPU,
    NEEDS_TORCHSDE,
    SETTINGS,
    STD,
    STEPS,
    make_diffusion_scheduler,
    make_flow_scheduler,
    predict_flow,
    predict_velocity,
)

DIFFUSION = sorted(set(DIFFUSION_SCHEDULERS) - NEEDS_TORCHSDE)
FLOW = sorted(set(FLOW_ONLY_SCHEDULERS) - {"LTXEulerAncestralRFScheduler"})  # which cannot add noise
SIDE, HALF = 48, 24
EXTRA = {**SETTINGS, "PNDMScheduler": {"skip_prk_steps": True}}


@torch.no_grad()
def sample_from(start, noise, scheduler, predict, *, steps):
    """Sample as `SamplingPipelineBase` does, from an image of the known distribution."""
    set_timesteps(scheduler, steps, device=CPU)
    timesteps = start.select_timesteps(scheduler, steps)
    latents = start.make_latents(scheduler, noise, timesteps)
    kwargs = prepare_extra_step_kwargs(scheduler, generator=torch.Generator().manual_seed(2), eta=0.0)
    for index, timestep in enumerate(timesteps):
        output = predict(scale_model_input(scheduler, latents, timestep), timestep)
        latents = scheduler.step(output, timestep, latents, **kwargs, return_dict=False)[0]
        latents = start.keep_unmasked(scheduler, latents, noise, timesteps[index + 1 :])
    return latents


def make_images():
    generator = torch.Generator().manual_seed(1)
    images, noise = (torch.randn(1, 3, SIDE, SIDE, generator=generator) for _ in range(2))
    return images * STD, noise


def make_case(name):
    if name in FLOW:
        return CLASSES[name].from_config(make_flow_scheduler().config), predict_flow
    return CLASSES[name].from_config(make_diffusion_scheduler().config, **EXTRA.get(name, {})), predict_velocity


@pytest.mark.parametrize("name", [*DIFFUSION, *FLOW])
def test_an_image_of_the_known_distribution_stays_in_it_at_half_strength(name):
    images, noise = make_images()
    scheduler, predict = make_case(name)
    steps = STEPS.get(name, 200)
    latents = sample_from(ImageStart(latents=images, strength=0.5), noise, scheduler, predict, steps=steps)
    ratios = latents.std(dim=(0, 2, 3)) / STD.flatten()
    assert (ratios - 1).abs().max() < (0.4 if name in CONSISTENCY_SCHEDULERS else 0.06), ratios
    assert 0.1 < float((latents - images).square().mean() / images.square().mean()) < 1.9


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", *FLOW])
def test_a_mask_keeps_one_half_exactly_and_the_other_in_the_distribution(name):
    images, noise = make_images()
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., HALF:] = 1
    scheduler, predict = make_case(name)
    start = ImageStart(latents=images, strength=1.0, mask=mask)
    latents = sample_from(start, noise, scheduler, predict, steps=STEPS.get(name, 200))
    assert torch.equal(latents[..., :HALF], images[..., :HALF])
    ratios = latents[..., HALF:].std(dim=(0, 2, 3)) / STD.flatten()
    assert (ratios - 1).abs().max() < (0.4 if name in CONSISTENCY_SCHEDULERS else 0.1), ratios


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
def test_the_first_latents_have_the_noise_of_their_timestep(name, strength):
    images, noise = make_images()
    scheduler, _ = make_case(name)
    set_timesteps(scheduler, 20, device=CPU)
    start = ImageStart(latents=images, strength=strength)
    timesteps = start.select_timesteps(scheduler, 20)
    assert len(timesteps) == start.count_steps(20) == 20 * strength
    latents = scale_model_input(scheduler, start.make_latents(scheduler, noise, timesteps), timesteps[0])
    alphas = make_diffusion_scheduler().alphas_cumprod
    alpha_bar = alphas[int(timesteps[0])]
    torch.testing.assert_close(
        latents, alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise, rtol=2e-3, atol=2e-3
    )


def test_strength_zero_leaves_no_step_and_strength_one_nothing_of_the_image():
    images, noise = make_images()
    scheduler, _ = make_case("DDIMScheduler")
    set_timesteps(scheduler, 10, device=CPU)
    for strength, count, expected in ((0.0, 0, images), (1.0, 10, noise)):
        start = ImageStart(latents=images, strength=strength)
        timesteps = start.select_timesteps(scheduler, 10)
        assert len(timesteps) == count
        assert torch.equal(start.make_latents(scheduler, noise, timesteps), expected)
