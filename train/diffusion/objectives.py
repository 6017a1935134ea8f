"""Formulas of diffusion training: noise schedules, targets, loss weights and timestep distributions.

B batch, R regions, F frames, Y and X cells of a flow grid, S = Y X; t is a timestep, time is on [0, 1).
"""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from dianjing.train.config.base import TimestepSamplingConfig

SMOOTH_L1_BETA = 0.1  # latent cells; smaller errors are penalized by their square


def scaled_linear_alphas_cumprod(beta_start: float, beta_end: float, num_steps: int = 1000) -> Tensor:
    """alpha_bar_t = prod_s (1 - beta_s), sqrt(beta) linear (Rombach et al. 2022, LDM code)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (Ho et al. 2020, Eq. 4)."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = alpha noise - sigma x0 (Salimans & Ho 2022, Appendix D)."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def signal_to_noise_ratio(alpha_bar: Tensor) -> Tensor:
    """SNR = alpha^2 / sigma^2 (Kingma et al. 2021, Eq. 2)."""
    return alpha_bar / (1 - alpha_bar)


def average_errors(squared_errors: Tensor, loss_mask: Tensor | None) -> Tensor:
    """The mean error of each sample (B,), of errors (B, C, Y, X) or (B, C, F, Y, X).

    loss_mask: (B, Y, X), the weight of each latent cell in the mean; None: all are equal.
    """
    if loss_mask is None:
        return squared_errors.flatten(1).mean(dim=1)
    errors = squared_errors.mean(dim=1)  # (B, Y, X) or (B, F, Y, X)
    weights = loss_mask if errors.ndim == 3 else loss_mask[:, None].expand_as(errors)
    return (errors * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1)


def min_snr_weight(alpha_bar: Tensor, *, gamma: float) -> Tensor:
    """min(SNR, gamma) / (SNR + 1), the loss weight for v-prediction (Hang et al. 2023, Eq. 9)."""
    snr = signal_to_noise_ratio(alpha_bar)
    return snr.clamp(max=gamma) / (snr + 1)


def min_snr_weight_epsilon(alpha_bar: Tensor, *, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR, the loss weight for epsilon-prediction (Hang et al. 2023); SNR must not be 0."""
    snr = signal_to_noise_ratio(alpha_bar)
    return snr.clamp(max=gamma) / snr


def sample_time(u: Tensor, config: TimestepSamplingConfig) -> Tensor:
    """Transform uniform numbers u (B,) on [0, 1) to times (B,) of the configured distribution."""
    if config.timestep_sampling == "stratified":
        u = stratify_time(u)
    time = ((u - config.noisiest_share) / (1 - config.noisiest_share)).clamp_min(0)
    if config.timestep_sampling == "logit_normal":
        time = logit_normal_time(time, mean=config.logit_mean, std=config.logit_std)
    return torch.where(u < config.noisiest_share, torch.ones_like(time), time)


def stratify_time(u: Tensor) -> Tensor:
    """One time in each of B equal strata: uniform, with less variance over a batch."""
    return (torch.arange(len(u), device=u.device) + u) / len(u)


def logit_normal_time(u: Tensor, *, mean: float, std: float) -> Tensor:
    """sigmoid(mean + std z), z ~ N(0, 1) by the inverse CDF (Esser et al. 2024, Eq. 19).

    diffusers' compute_density_for_timestep_sampling has the same distribution, but takes no uniform numbers: a row's
    time would then depend on the batch size.
    """
    z = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
    return torch.sigmoid(mean + std * z).float()


def shift_time(time: Tensor, *, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): more noise for larger images (Esser et al. 2024, Eq. 23)."""
    return shift * time / (1 + (shift - 1) * time)


def to_timestep(time: Tensor, num_steps: int = 1000) -> Tensor:
    """Convert times on [0, 1) to integer timesteps 0 .. num_steps - 1."""
    return (time * num_steps).long().clamp(0, num_steps - 1)


def couple_noise(noise: Tensor, intervals: Tensor) -> Tensor:
    """Move noise (B, C, ...) to where it decides K choices as the data have: between `intervals` (B, K, 2) of [0, 1].

    Phi of the sum over channel k, divided by the root of its size, is uniform on [0, 1), and is mapped to interval k.
    If the options of a choice tile [0, 1) with their probabilities, noise over all data stays N(0, I), and a model
    need not average over options: a coupling of noise and data (Pooladian et al. 2023, arXiv 2304.14772).
    """
    low, high = intervals.unbind(dim=2)  # (B, K), float64
    channels = noise.flatten(2)[:, : low.shape[1]]
    root = channels.shape[2] ** 0.5
    z = channels.double().sum(dim=2) / root
    quantile = low + (high - low) * torch.special.ndtr(z)
    shift = (torch.special.ndtri(quantile.clamp(1e-6, 1 - 1e-6)) - z) / root
    coupled = noise.clone(memory_format=torch.contiguous_format)
    coupled.flatten(2)[:, : low.shape[1]] += shift[..., None].to(noise.dtype)
    return coupled


def flow_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean smooth L1 error, in latent cells, of backward flow (B, R, F, S, 2) against (B, R, F, Y, X, 2).

    Both are displacements (x, y) in fractions of the image side; NaN in the target is left out of the mean.
    """
    known = ~target.isnan()
    sides = target.new_tensor([target.shape[4], target.shape[3]])
    error = (predicted.unflatten(3, target.shape[3:5]) - target.nan_to_num()) * known * sides
    loss = smooth_l1_loss(error, torch.zeros_like(error), beta=SMOOTH_L1_BETA, reduction="sum")
    return loss / known.sum().clamp_min(1)
