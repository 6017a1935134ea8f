"""The schedule: any of diffusers' schedulers, and only what it understands."""

import inspect
from typing import Any

import torch
from diffusers.schedulers import SchedulerMixin
from torch import Tensor


def set_schedule(scheduler: SchedulerMixin, num_inference_steps: int, *, device: torch.device) -> Tensor:
    """Start a new run and return its timesteps (S,); S is larger than asked where steps are of higher order."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it looks for the first timestep, which waits for the device
    return scheduler.timesteps


def step_options(scheduler: SchedulerMixin, **offered: Any) -> dict[str, Any]:
    """Of the options offered (eta, generator) those that this scheduler's step takes."""
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in taken}
