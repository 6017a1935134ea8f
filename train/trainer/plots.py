"""Pictures of numbers: the losses of a run, and which noise it trains at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SMOOTHING_FRACTION = 0.05  # of the run
VALIDATION_PREFIX = "validation_mse"


def plot_losses(records: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training losses, thin as they were and thick as they went, and held-out ones as points, by language."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in _select_names(records, lambda key: key == "loss" or key.startswith("loss_")):
        steps, values = _get_series(records, name)
        (line,) = axes.plot(steps, values, linewidth=0.5, alpha=0.35)
        axes.plot(steps, smooth_median(values), color=line.get_color(), label=name.replace("_", " "))
    for name in _select_names(records, lambda key: key.startswith(VALIDATION_PREFIX) and key.count("_") == 2):
        axes.plot(*_get_series(records, name), marker="o", label=name.replace("_", " "))
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)


def smooth_median(values: np.ndarray) -> np.ndarray:
    """The median around each value; the ends have what there is."""
    reach = max(1, round(SMOOTHING_FRACTION * len(values) / 2))
    return np.array([np.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])


def plot_timestep_distribution(timesteps: np.ndarray, weights: np.ndarray, path: Path, *, title: str) -> None:
    """How often each timestep is trained at, and how much an error counts there; both for many samples."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    often, counts = figure.subplots(2, 1, sharex=True)
    often.hist(timesteps, bins=50, range=(0, 1000), density=True)
    often.set(ylabel="how often", title=title)
    order = np.argsort(timesteps)
    counts.plot(timesteps[order], weights[order])
    counts.set(xlabel="timestep (0: the picture, 1000: noise)", ylabel="weight of an error", xlim=(0, 1000))
    counts.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def _select_names(records: Sequence[Mapping[str, float]], predicate) -> list[str]:
    return list(dict.fromkeys(key for line in records for key in line if predicate(key)))


def _get_series(records: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(line["step"], line[name]) for line in records if name in line]
    return np.array([step for step, _ in found]), np.array([value for _, value in found])
