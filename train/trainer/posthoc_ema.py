"""Averages of a run's weights whose length is chosen afterwards: power functions of time, kept at two lengths.

Source: Karras et al. 2024 (EDM2, arXiv 2312.02696), Sec. 3 and App. C. t counts steps, from 1; sigma_rel is the
standard deviation of an average's profile over time, as a share of the training so far.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dianjing.pipelines.media.atomic import atomic_file
from dianjing.train.trainer.checkpoint import Checkpoint, Tensors
from dianjing.train.trainer.ema import ExponentialMovingAverage
from dianjing.train.trainer.state_dict import get_model_state, load_model_state

SIGMA_RELS = (0.05, 0.10)  # that are kept
_NAME_PATTERN = re.compile(r"step-(\d{8,})-(0\.\d+)\.safetensors")


def get_sigma_rel(gamma: float) -> float:
    """Eq. 3."""
    return (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5


def get_gamma(sigma_rel: float) -> float:
    """The exponent of a profile; App. C, Algorithm 2.

    Raises: ValueError for a length that no power function has.
    """
    if not 0 < sigma_rel < get_sigma_rel(0):
        raise ValueError(f"sigma {sigma_rel:g}; the length of an average is between 0 and {get_sigma_rel(0):.3f}")
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def get_beta(t: int, gamma: float) -> float:
    """How much of the average is kept at step t; Eq. 2."""
    return (1 - 1 / t) ** (gamma + 1)


def dot_profiles(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Of two profiles; App. C, Algorithm 3."""
    ratio, exponent = t_a / t_b, np.where(t_a < t_b, gamma_b, -gamma_a)
    top = (gamma_a + 1) * (gamma_b + 1) * ratio**exponent
    return top / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def solve_coefficients(snapshots: list[tuple[int, float]], target: tuple[int, float]) -> np.ndarray:
    """Of each kept average (t, sigma_rel), so that together they are nearest to the wanted one; App. C, Algorithm 3.

    They sum to one, as the weights of an average do.
    """
    t, gamma = np.array([(t, get_gamma(sigma)) for t, sigma in snapshots]).T
    t_wanted, gamma_wanted = np.array([target[0]]), np.array([get_gamma(target[1])])
    inner = dot_profiles(t[:, None], gamma[:, None], t[None], gamma[None])
    found = np.linalg.lstsq(inner, dot_profiles(t, gamma, t_wanted, gamma_wanted), rcond=None)[0]
    return found / found.sum()


class PowerFunctionAverage(ExponentialMovingAverage):
    """Of trained weights, with a profile of the given length."""

    def __init__(self, model: nn.Module, sigma_rel: float) -> None:
        super().__init__(model, decay=0.0)
        self.sigma_rel, self.gamma = sigma_rel, get_gamma(sigma_rel)

    @torch.no_grad()
    def update(self, step: int) -> None:
        kept = get_beta(step + 1, self.gamma)
        torch._foreach_lerp_(self.averages, self.weights, 1 - kept)


class PowerFunctionEMA:
    """All that a run keeps, or none."""

    def __init__(self, model: nn.Module, *, enabled: bool) -> None:
        self.model = model
        self.averages = [PowerFunctionAverage(model, sigma) for sigma in SIGMA_RELS] if enabled else []

    def update(self, step: int) -> None:
        for average in self.averages:
            average.update(step)

    def get_tensors(self) -> dict[str, Tensors]:
        """For a checkpoint; of sharded weights on the main process alone."""
        return dict(self._iterate_groups())

    def load(self, checkpoint: Checkpoint) -> None:
        for average in self.averages:
            with average.average_parameters():
                load_model_state(self.model, checkpoint, _get_group_name(average.sigma_rel))

    def save_snapshot(self, folder: Path, step: int, *, is_writer: bool) -> None:
        """step-<step>-<sigma_rel>.safetensors in half precision; `writes` on the main process."""
        for average in self.averages:
            with average.average_parameters():
                weights = get_model_state(self.model)
            if is_writer:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"step-{step:08d}-{average.sigma_rel:.3f}.safetensors"
                with atomic_file(path) as temporary:
                    save_file({name: tensor.half() for name, tensor in weights.items()}, temporary)

    def _iterate_groups(self) -> Iterator[tuple[str, Tensors]]:
        for average in self.averages:
            with average.average_parameters():
                yield _get_group_name(average.sigma_rel), get_model_state(self.model)


def _get_group_name(sigma_rel: float) -> str:
    return f"power-{sigma_rel:.3f}"


def reconstruct_ema(folder: Path, sigma_rel: float) -> tuple[int, Tensors]:
    """The last step of a run's snapshots, and the average of that length there, in float32.

    Raises: ValueError where there are none, or for a length that no power function has.
    """
    get_gamma(sigma_rel)
    named = [
        (path, match) for path in sorted(folder.glob("*.safetensors")) if (match := _NAME_PATTERN.fullmatch(path.name))
    ]
    if not named:
        raise ValueError(f"{folder} holds no snapshots; set optimizer.ema_snapshot_every before the run")
    kept = [(int(match[1]), float(match[2])) for _, match in named]
    last = max(step for step, _ in kept)
    total: dict[str, Tensor] = {}
    for (path, _), share in zip(named, solve_coefficients(kept, (last, sigma_rel)), strict=True):
        for name, tensor in load_file(path).items():
            total[name] = total.get(name, torch.zeros(tensor.shape)) + float(share) * tensor.float()
    return last, total
