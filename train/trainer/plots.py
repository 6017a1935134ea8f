"""Plots: the losses of a run, and the distribution and loss weights of its timesteps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SMOOTHING_FRACTION = 0.05  # of the run
VALIDATION_PREFIX = "validation_mse"


def plot_losses(records: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot training losses (raw as thin, smoothed as thick lines) and validation errors by language (points)."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in _select_names(records, lambda key: key == "loss" or key.startswith("loss_")):
        steps, values = _get_series(records, name)
        (line,) = axes.plot(steps, values, linewidth=0.5, alpha=0.35)
        axes.plot(steps, smooth_median(values), color=line.get_color(), label=name.replace("_", " "))
    for name in _select_names(records, _is_validation_of_language):
        axes.plot(*_get_series(records, name), marker="o", label=name.replace("_", " "))
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)


def _is_validation_of_language(name: str) -> bool:
    """True for validation_mse_zh, false for its quantiles (validation_mse_zh_q1)."""
    return name.startswith(VALIDATION_PREFIX) and name.count("_") == 2


def smooth_median(values: np.ndarray) -> np.ndarray:
    """Running median over SMOOTHING_FRACTION of the values, with shorter windows at the ends."""
    radius = max(1, round(SMOOTHING_FRACTION * len(values) / 2))
    return np.array([np.median(values[max(0, i - radius) : i + radius + 1]) for i in range(len(values))])


def plot_timestep_distribution(timesteps: np.ndarray, weights: np.ndarray, path: Path, *, title: str) -> None:
    """Plot the density of sampled timesteps and the loss weight of each; both arrays have one entry per sample."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    density_axes, weight_axes = figure.subplots(2, 1, sharex=True)
    density_axes.hist(timesteps, bins=50, range=(0, 1000), density=True)
    density_axes.set(ylabel="density", title=title)
    order = np.argsort(timesteps)
    weight_axes.plot(timesteps[order], weights[order])
    weight_axes.set(xlabel="timestep (0: image, 1000: noise)", ylabel="loss weight", xlim=(0, 1000))
    weight_axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def _select_names(records: Sequence[Mapping[str, float]], predicate: Callable[[str], bool]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record if predicate(key)))


def _get_series(records: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(record["step"], record[name]) for record in records if name in record]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])
