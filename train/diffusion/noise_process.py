"""Noise processes: variance-preserving diffusion and rectified flow under one interface, and their schedulers.

B batch; latents are (B, C, ...); time is on [0, 1), 0 for clean latents.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import SchedulerMixin
from torch import Tensor
from typing_extensions import Self

from dianjing.dit import DiT
from dianjing.dit.motion.warp_guidance import NUM_TRAIN_TIMESTEPS
from dianjing.errors import DianjingError
from dianjing.train.config.finetune import FinetuneObjectiveConfig
from dianjing.train.config.text_to_image import TextToImageObjectiveConfig
from dianjing.train.diffusion import objectives

ZERO_SNR_SCHEDULERS = ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"]


class NoiseProcess(Protocol):
    """A way to add noise to latents, and the target that a model learns to predict from noisy ones."""

    def to(self, device: torch.device) -> Self: ...

    def to_timestep(self, time: Tensor) -> Tensor:
        """Convert times (B,) to the timesteps that the model is given (B,)."""

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor: ...

    def get_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor: ...

    def get_loss_weight(self, timestep: Tensor) -> Tensor:
        """The weight of each sample's squared error (B,)."""

    def get_x0_coefficients(self, timestep: Tensor) -> Tensor:
        """Coefficients (a, b) of x0 = a x_t + b prediction: (B, 2)."""


@dataclass(frozen=True, kw_only=True)
class VPDiffusion:
    """Variance-preserving diffusion with a schedule alpha_bar (T,); the model predicts the noise or the velocity."""

    alphas_cumprod: Tensor
    prediction_type: Literal["epsilon", "v_prediction"]
    min_snr_gamma: float | None = None

    def to(self, device: torch.device) -> "VPDiffusion":
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def to_timestep(self, time: Tensor) -> Tensor:
        return objectives.to_timestep(time, len(self.alphas_cumprod))

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return objectives.add_noise(latents, noise, self._alpha_bar(timestep, latents))

    def get_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        return objectives.velocity(latents, noise, self._alpha_bar(timestep, latents))

    def get_loss_weight(self, timestep: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[timestep]
        if self.min_snr_gamma is None:
            return torch.ones_like(alpha_bar)
        if self.prediction_type == "epsilon":
            return objectives.min_snr_weight_epsilon(alpha_bar, gamma=self.min_snr_gamma)
        return objectives.min_snr_weight(alpha_bar, gamma=self.min_snr_gamma)

    def get_x0_coefficients(self, timestep: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[timestep]
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if self.prediction_type == "epsilon":
            return torch.stack([1 / signal, -noise / signal], dim=-1)
        return torch.stack([signal, -noise], dim=-1)

    def _alpha_bar(self, timestep: Tensor, latents: Tensor) -> Tensor:
        return self.alphas_cumprod[timestep].reshape(-1, *[1] * (latents.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """A straight line from latents to noise; the model predicts its direction (Lipman et al. 2023; Liu et al. 2023)."""

    shift: float = 1.0
    num_timesteps: int = 1000

    def to(self, device: torch.device) -> "RectifiedFlow":
        return self

    def to_timestep(self, time: Tensor) -> Tensor:
        return self.num_timesteps * objectives.shift_time(time, shift=self.shift)

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / self.num_timesteps).reshape(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise

    def get_target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - latents

    def get_loss_weight(self, timestep: Tensor) -> Tensor:
        return torch.ones_like(timestep)

    def get_x0_coefficients(self, timestep: Tensor) -> Tensor:
        sigma = timestep / self.num_timesteps
        return torch.stack([torch.ones_like(sigma), -sigma], dim=-1)


def init_warp_guidance(transformer: DiT, noise_process: NoiseProcess) -> None:
    """Give the warp guidance of a transformer, if it has one, the x0 coefficients of the noise process."""
    if transformer.motion_conditioner is not None and transformer.motion_conditioner.warp_guidance is not None:
        transformer.motion_conditioner.warp_guidance.set_x0_coefficients(
            noise_process.get_x0_coefficients(torch.arange(NUM_TRAIN_TIMESTEPS))
        )


def adapt_scheduler(objective: FinetuneObjectiveConfig, scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler for sampling after training: the model's own, changed as the objective demands.

    Raises: DianjingError for a scheduler that cannot be changed so.
    """
    if objective.prediction_type == "flow":
        return DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=objective.flow_shift
        )
    changes: dict[str, Any] = {}
    if objective.prediction_type != "inherit":
        changes["prediction_type"] = objective.prediction_type
    if objective.terminal_snr == "zero":
        if "rescale_betas_zero_snr" not in scheduler.config:
            raise DianjingError(
                "zero_snr_unsupported", scheduler=type(scheduler).__name__, alternatives=ZERO_SNR_SCHEDULERS
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return type(scheduler).from_config(scheduler.config, **changes)


def make_noise_process(scheduler: SchedulerMixin, *, min_snr_gamma: float | None) -> NoiseProcess:
    """The noise process whose noise a scheduler removes.

    Raises: DianjingError for a prediction type that cannot be trained here.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "flow_prediction":
        return RectifiedFlow(shift=scheduler.config.flow_shift, num_timesteps=scheduler.config.num_train_timesteps)
    if prediction_type not in ("epsilon", "v_prediction"):
        raise DianjingError(
            "prediction_type_unsupported", prediction_type=prediction_type, allowed=["epsilon", "v_prediction", "flow"]
        )
    return VPDiffusion(
        alphas_cumprod=scheduler.alphas_cumprod.clone(), prediction_type=prediction_type, min_snr_gamma=min_snr_gamma
    )


def make_dpm_scheduler(objective: TextToImageObjectiveConfig) -> DPMSolverMultistepScheduler:
    """The scheduler for sampling from a model trained with `make_vp_diffusion`."""
    config = {
        "beta_start": objective.beta_start,
        "beta_end": objective.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",  # starts at the noisiest timestep (Lin et al. 2024)
        "lower_order_final": True,
        "clip_sample": False,  # for DDIM and DDPM, should one take its place: latents are not limited to [-1, 1]
    }
    return DPMSolverMultistepScheduler.from_config(config)


def make_vp_diffusion(objective: TextToImageObjectiveConfig) -> VPDiffusion:
    """The noise process of a model trained from scratch: v-prediction with a scaled linear schedule."""
    alphas = objectives.scaled_linear_alphas_cumprod(objective.beta_start, objective.beta_end)
    return VPDiffusion(alphas_cumprod=alphas, prediction_type="v_prediction", min_snr_gamma=objective.min_snr_gamma)
