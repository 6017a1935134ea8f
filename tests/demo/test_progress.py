"""Previews: x0 is recovered from the latents before and after a step."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from dianjing.demo.progress import predict_x0

SCHEDULERS = {
    "DDIM": lambda: DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"),
    "DPM": lambda: DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_order=1),
    "Euler": lambda: EulerDiscreteScheduler(timestep_spacing="trailing"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_x0_is_recovered_when_the_model_predicts_it_exactly(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(2))
    latents = noise * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        alpha_bar = scheduler.alphas_cumprod[int(timestep)]
        predicted_noise = (scaled - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        previous, latents = latents, scheduler.step(predicted_noise, timestep, latents).prev_sample
        estimate = predict_x0(previous, latents, scheduler, step=step)
        torch.testing.assert_close(estimate, x0, atol=2e-2, rtol=2e-2)
