"""Post-hoc EMA: averages of a run's weights whose length is chosen after training.

Source: Karras et al. 2024 (EDM2, arXiv 2312.02696), Sec. 3 and App. C. t counts steps from 1; sigma_rel is the
standard deviation of an average's profile over time, as a fraction of the training so far. Power-function averages are
stored at two lengths; any other length is a linear combination of their snapshots.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import atomic_file
from dianjing.train.trainer.checkpoint import Checkpoint, Tensors
from dianjing.train.trainer.ema import ExponentialMovingAverage
from dianjing.train.trainer.state_dict import get_model_state, load_model_state

SIGMA_RELS = (0.05, 0.10)  # of the stored averages
_NAME_PATTERN = re.compile(r"step-(\d{8,})-(0\.\d+)\.safetensors")


def get_sigma_rel(gamma: float) -> float:
    """The relative standard deviation of a power-function profile with exponent gamma; Eq. 3."""
    return (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5


def get_gamma(sigma_rel: float) -> float:
    """The exponent of a power-function profile; App. C, Algorithm 2.

    Raises: DianjingError for a length that no power function has.
    """
    if not 0 < sigma_rel < get_sigma_rel(0):
        raise DianjingError("average_length_out_of_range", sigma=f"{sigma_rel:g}", maximum=f"{get_sigma_rel(0):.3f}")
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def get_beta(t: int, gamma: float) -> float:
    """The decay of the average at step t; Eq. 2."""
    return (1 - 1 / t) ** (gamma + 1)


def dot_profiles(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Inner products of two power-function profiles; App. C, Algorithm 3."""
    ratio, exponent = t_a / t_b, np.where(t_a < t_b, gamma_b, -gamma_a)
    numerator = (gamma_a + 1) * (gamma_b + 1) * ratio**exponent
    return numerator / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def solve_coefficients(snapshots: list[tuple[int, float]], target: tuple[int, float]) -> np.ndarray:
    """Coefficients of snapshots (t, sigma_rel) whose combination is nearest to the target; App. C, Algorithm 3.

    They sum to one, as the weights of an average do.
    """
    t, gamma = np.array([(t, get_gamma(sigma)) for t, sigma in snapshots]).T
    target_t, target_gamma = np.array([target[0]]), np.array([get_gamma(target[1])])
    gram = dot_profiles(t[:, None], gamma[:, None], t[None], gamma[None])
    coefficients = np.linalg.lstsq(gram, dot_profiles(t, gamma, target_t, target_gamma), rcond=None)[0]
    return coefficients / coefficients.sum()


class PowerFunctionAverage(ExponentialMovingAverage):
    """Average of the trained weights with a power-function profile of a given length."""

    def __init__(self, model: nn.Module, sigma_rel: float) -> None:
        super().__init__(model, decay=0.0)
        self.sigma_rel, self.gamma = sigma_rel, get_gamma(sigma_rel)

    @torch.no_grad()
    def update(self, step: int) -> None:
        beta = get_beta(step + 1, self.gamma)
        torch._foreach_lerp_(self.averages, self.weights, 1 - beta)


class PowerFunctionEMA:
    """All power-function averages of a run, or none if it stores no snapshots."""

    def __init__(self, model: nn.Module, *, enabled: bool) -> None:
        self.model = model
        self.averages = [PowerFunctionAverage(model, sigma) for sigma in SIGMA_RELS] if enabled else []

    def update(self, step: int) -> None:
        for average in self.averages:
            average.update(step)

    def get_tensors(self) -> dict[str, Tensors]:
        """Groups for a checkpoint; with sharded weights, on the main process alone."""
        return dict(self._iterate_groups())

    def load(self, checkpoint: Checkpoint) -> None:
        for average in self.averages:
            with average.average_parameters():
                load_model_state(self.model, checkpoint, _get_group_name(average.sigma_rel))

    def save_snapshot(self, folder: Path, step: int, *, is_writer: bool) -> None:
        """Write step-<step>-<sigma_rel>.safetensors in float16; `is_writer` is true on the main process."""
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
    """The last step of a run's snapshots, and the average of length `sigma_rel` at that step, in float32.

    Raises: DianjingError if there are no snapshots, and for a length that no power function has.
    """
    get_gamma(sigma_rel)
    matches = [(path, _NAME_PATTERN.fullmatch(path.name)) for path in sorted(folder.glob("*.safetensors"))]
    files = {path: (int(match[1]), float(match[2])) for path, match in matches if match is not None}
    if not files:
        raise DianjingError("snapshots_missing", folder=folder)
    snapshots = list(files.values())
    last_step = max(step for step, _ in snapshots)
    total: dict[str, Tensor] = {}
    for path, coefficient in zip(files, solve_coefficients(snapshots, (last_step, sigma_rel)), strict=True):
        for name, tensor in load_file(path).items():
            total[name] = total.get(name, torch.zeros(tensor.shape)) + float(coefficient) * tensor.float()
    return last_step, total
