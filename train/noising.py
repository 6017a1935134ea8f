"""What is added to latents, and what a model is to predict of it: diffusion or flow, under one interface.

B batch; latents are (B, C, ...); positions are on [0, 1), 0 where nothing is added.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from dianjing.dit import DiT
from dianjing.dit.first_frame import NUM_TIMESTEPS
from dianjing.train import objectives


class Noising(Protocol):
    def to(self, device: torch.device) -> Self: ...

    def timestep(self, position: Tensor) -> Tensor:
        """What the model is told (B,)."""

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor: ...

    def weight(self, timestep: Tensor) -> Tensor:
        """Of each sample's squared error (B,)."""

    def clean(self, timestep: Tensor) -> Tensor:
        """How much of noisy latents and of what the model predicts makes clean latents: (B, 2)."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Noise by a schedule alpha_bar (T,); the model predicts the noise or the velocity."""

    alphas_cumprod: Tensor
    prediction: Literal["epsilon", "v_prediction"]
    min_snr_gamma: float | None = None

    def to(self, device: torch.device) -> "Diffusion":
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def timestep(self, position: Tensor) -> Tensor:
        return objectives.to_timestep(position, len(self.alphas_cumprod))

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return objectives.add_noise(latents, noise, self._alpha_bar(timestep, latents))

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        return objectives.velocity(latents, noise, self._alpha_bar(timestep, latents))

    def weight(self, timestep: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[timestep]
        if self.min_snr_gamma is None:
            return torch.ones_like(alpha_bar)
        if self.prediction == "epsilon":
            return objectives.min_snr_weight_epsilon(alpha_bar, gamma=self.min_snr_gamma)
        return objectives.min_snr_weight(alpha_bar, gamma=self.min_snr_gamma)

    def clean(self, timestep: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[timestep]
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if self.prediction == "epsilon":
            return torch.stack([1 / signal, -noise / signal], dim=-1)
        return torch.stack([signal, -noise], dim=-1)

    def _alpha_bar(self, timestep: Tensor, latents: Tensor) -> Tensor:
        return self.alphas_cumprod[timestep].reshape(-1, *[1] * (latents.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A straight line from latents to noise; the model predicts its direction (Lipman et al. 2023; Liu et al. 2023)."""

    shift: float = 1.0
    num_timesteps: int = 1000

    def to(self, device: torch.device) -> "Flow":
        return self

    def timestep(self, position: Tensor) -> Tensor:
        return self.num_timesteps * objectives.shifted(position, shift=self.shift)

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / self.num_timesteps).reshape(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - latents

    def weight(self, timestep: Tensor) -> Tensor:
        return torch.ones_like(timestep)

    def clean(self, timestep: Tensor) -> Tensor:
        sigma = timestep / self.num_timesteps
        return torch.stack([torch.ones_like(sigma), -sigma], dim=-1)


def tell_noise(transformer: DiT, noising: Noising) -> None:
    """A transformer whose frames take over the first one compares clean latents: what they are made of."""
    if transformer.click is not None and transformer.click.taking_over is not None:
        transformer.click.taking_over.know_noise(noising.clean(torch.arange(NUM_TIMESTEPS)))
