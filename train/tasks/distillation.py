"""Distillation of guided sampling in many steps to unguided sampling in few, as an adapter.

B batch, C latent channels, K steps of the student, n steps of the teacher for each of them; latents are (B, C, Y, X).

One step of the student ends where n guided steps of the base model end (Salimans and Ho 2022, arXiv 2202.00512; Meng et
al. 2023, arXiv 2210.03142, for guidance). The student steps by DDIM, the teacher by DPM-Solver++ (2M; Lu et al. 2022,
arXiv 2211.01095, Algorithm 2). A process has the levels (alpha, sigma) at a timestep: x_t = alpha x_0 + sigma noise.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.data.samples import Batch
from dianjing.train.diffusion.noise_process import NoiseProcess
from dianjing.train.tasks.finetune import FinetuneTask
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling


def make_few_step_scheduler(scheduler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """The scheduler of the student: DDIM steps, from the noisiest timestep to clean latents."""
    return DPMSolverMultistepScheduler.from_config(
        scheduler.config,
        algorithm_type="dpmsolver++",
        solver_order=1,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )


def get_levels(process: NoiseProcess, timesteps: Tensor, is_clean: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma (B, 1, 1, 1) at timesteps (B,); 1 and 0 where `is_clean`."""
    ones = torch.ones(len(timesteps), 1, 1, 1, device=timesteps.device)
    alpha, sigma = (process.add_noise(a, b, timesteps) for a, b in ((ones, 0 * ones), (0 * ones, ones)))
    is_clean = is_clean.view(-1, 1, 1, 1)
    return torch.where(is_clean, ones, alpha), torch.where(is_clean, 0 * ones, sigma)


def step_to(latents: Tensor, x0: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """A DDIM step between two levels (alpha, sigma) with predicted clean latents."""
    ratio = end[1] / start[1]
    return ratio * latents + (end[0] - ratio * start[0]) * x0


def extrapolate_x0(x0: Tensor, previous: Tensor, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
    """x0 halfway through a step, by its values at two levels; `levels` are those of both, and the end of the step.

    A step to clean latents takes `x0` as it is.
    """
    before, now, after = (torch.log(alpha / sigma) for alpha, sigma in levels)
    ratio = torch.where(after.isinf(), 0, (after - now) / (2 * (now - before)))
    return x0 + ratio * (x0 - previous)


class DistillationTask(FinetuneTask):
    """Trains an adapter whose K unguided steps end where K n guided steps of the base model end."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        objective = self.config.objective
        assert objective.distillation_steps is not None
        self.teacher_scheduler, self.scheduler = self.scheduler, make_few_step_scheduler(self.scheduler)
        self.scheduler.set_timesteps(objective.distillation_steps)
        self.starts = self.scheduler.timesteps.clone()
        self.clean_timestep = 0 if self.starts.is_floating_point() else -1
        self.guidance_scale = objective.distillation_guidance_scale or self.default_sampling[1]
        self.teacher_sampling, self.default_sampling = self.default_sampling, (objective.distillation_steps, 1.0)
        self.negative_batch = self.caption_batcher([("", "")])

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        super().to_device(device, dtype)
        self.starts = self.starts.to(device)
        self.negative_batch = {name: tensor.to(device) for name, tensor in self.negative_batch.items()}

    def _compute_errors(self, batch: Batch, noise: Batch) -> Tensor:
        """The mean squared difference of each sample (B,) from the teacher's step, as one of the prediction.

        The timestep of a sample chooses the step of the student that contains it.
        """
        process, latents, device = self.noise_process, batch["latents"].float(), noise["timestep"].device
        index = (self.starts[:, None] >= noise["timestep"]).sum(dim=0).sub(1).clamp_min(0)
        start, is_last = self.starts[index], index == len(self.starts) - 1
        first, never = self.starts[:1].expand_as(start), torch.zeros_like(is_last)
        end = torch.where(is_last, self.clean_timestep, self.starts[(index + 1).clamp_max(len(self.starts) - 1)])
        noisy = process.add_noise(latents, noise["latents"], start)
        if self.config.objective.distillation_own_steps:
            noisy = self._sample_student(process.add_noise(latents, noise["latents"], first), batch, index)
        target = self._sample_teacher(noisy, batch, start=start, end=end, is_last=is_last)
        levels = get_levels(process, start, never), get_levels(process, end, is_last)
        reached = step_to(noisy, self._predict_x0(noisy, start, batch), *levels)
        factor = process.get_x0_coefficients(start)[:, 1].to(device).view(-1, 1, 1, 1)
        (alpha, sigma), (alpha_end, sigma_end) = levels
        factor = factor * (alpha_end - sigma_end / sigma * alpha)  # of the prediction, in where a step ends
        return ((reached - target) / factor).square().flatten(1).mean(dim=1)

    @torch.no_grad()
    def _sample_student(self, latents: Tensor, batch: Batch, num_steps: Tensor) -> Tensor:
        """The latents where the first `num_steps` (B,) steps of the student end, from those of the first timestep.

        Source: backward distillation of Imagine Flash (Kohler et al. 2024, arXiv 2405.05224).
        """
        for step in range(int(num_steps.max())):
            rows = num_steps > step
            noisy, captions = latents[rows], {name: tensor[rows] for name, tensor in batch.items()}
            start, end = (each.expand(len(noisy)) for each in self.starts[step : step + 2].split(1))
            never = torch.zeros(len(noisy), dtype=torch.bool, device=noisy.device)
            levels = [get_levels(self.noise_process, each, never) for each in (start, end)]
            latents = latents.clone()
            latents[rows] = step_to(noisy, self._predict_x0(noisy, start, captions), *levels)
        return latents

    @torch.no_grad()
    def _sample_teacher(self, latents: Tensor, batch: Batch, *, start: Tensor, end: Tensor, is_last: Tensor) -> Tensor:
        """The latents where n guided steps of the base model end, which lead from `start` to `end` (B,)."""
        count = self.config.objective.distillation_teacher_steps
        fractions = torch.arange(count + 1, device=start.device)[:, None] / count
        times = start + (end - start) * fractions
        if not self.starts.is_floating_point():
            times = times.round().long()
        is_clean = is_last & (fractions == 1)
        levels = [get_levels(self.noise_process, *pair) for pair in zip(times, is_clean, strict=True)]
        rows = len(latents)
        negative = batch | {name: each.expand(rows, *each.shape[1:]) for name, each in self.negative_batch.items()}
        self.transformer.disable_adapters()
        previous: Tensor | None = None
        for step in range(count):
            guided = self._predict_x0(latents, times[step], batch)
            unguided = self._predict_x0(latents, times[step], negative)
            x0 = unguided + self.guidance_scale * (guided - unguided)
            central = x0 if previous is None else extrapolate_x0(x0, previous, levels[step - 1 : step + 2])
            latents, previous = step_to(latents, central, levels[step], levels[step + 1]), x0
        self.transformer.enable_adapters()
        return latents

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        super()._export(folder, dtype)
        steps, guidance_scale = self.default_sampling
        write_adapter_sampling(folder, AdapterSampling(num_inference_steps=steps, guidance_scale=guidance_scale))

    def _predict_x0(self, latents: Tensor, timestep: Tensor, batch: Batch) -> Tensor:
        predicted = self._predict(latents, timestep.float(), batch)[:, : latents.shape[1]].float()
        a, b = self.noise_process.get_x0_coefficients(timestep).view(-1, 2, 1, 1, 1).unbind(dim=1)
        return a * latents + b * predicted

    def _generate_rows(self, pipe: TextToImagePipeline) -> list[np.ndarray]:
        """Images of the base model in its own steps, and of the adapter in few."""
        few = self._generate_images(pipe)
        steps, guidance_scale = self.teacher_sampling
        pipe.scheduler = type(self.teacher_scheduler).from_config(self.teacher_scheduler.config)
        self.transformer.disable_adapters()
        base = self._generate_images(pipe, num_inference_steps=steps, guidance_scale=guidance_scale)
        self.transformer.enable_adapters()
        return [base, few]
