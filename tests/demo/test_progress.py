"""What two states of a run say of the picture it goes towards."""

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
def test_the_picture_that_the_steps_go_towards_is_found(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    picture, noise = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(2))
    latents = noise * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        share = scheduler.alphas_cumprod[int(timestep)]
        direction = (scaled - share.sqrt() * picture) / (1 - share).sqrt()  # the noise, if the model knew the picture
        before, latents = latents, scheduler.step(direction, timestep, latents).prev_sample
        found = predict_x0(before, latents, scheduler, step=step)
        torch.testing.assert_close(found, picture, atol=2e-2, rtol=2e-2)
