"""Logs of a run: metrics.jsonl, sample images, experiment trackers and a plot of the losses."""

import importlib.util
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.errors import DianjingError, get_language
from dianjing.train.trainer.divergence import LossMonitor
from dianjing.train.trainer.history import flatten_settings

METRICS_FILE = "metrics.jsonl"
TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # the library that each tracker needs


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are installed, since accelerate goes on without them. Raises: DianjingError if one is not."""
    for name in names:
        if importlib.util.find_spec(TRACKER_MODULES[name]) is None:
            raise DianjingError("tracker_missing", tracker=name, package=TRACKER_MODULES[name])


class MetricSums:
    """Sums of metrics since the last log, on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, float]] = {}  # (sum, weight)

    def add(self, metrics: Mapping[str, Tensor], *, weight: float = 1.0) -> None:
        for name, value in metrics.items():
            total, weights = self._sums.get(name, (torch.zeros_like(value), 0.0))
            self._sums[name] = (total + weight * value, weights + weight)

    def pop_means(self, accelerator: Accelerator) -> dict[str, float]:
        """The mean of each metric over all processes; the sums start again."""
        values = torch.stack([(total / weights).float() for total, weights in self._sums.values()])
        means = dict(zip(self._sums, accelerator.reduce(values, reduction="mean").tolist(), strict=True))
        self._sums = {}
        return means


class RunLogger:
    """Writes the logs of a run from the main process, and says when the loss grows or does not fall."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, total_steps: int) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.loss_monitor = LossMonitor(total_steps)

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Drop the metrics after `step`, which will be written again, and write config.json."""
        if self.accelerator.is_main_process:
            _drop_lines_after(self.folder / METRICS_FILE, step)
            for record in read_metrics(self.folder):
                if "loss" in record:
                    self.loss_monitor.add(int(record["step"]), record["loss"])
            text = json.dumps(config, ensure_ascii=False, indent=1)
            (self.folder / "config.json").write_text(text, encoding="utf-8")
        if self.accelerator.log_with:
            self.accelerator.init_trackers("dianjing", config=_get_tracker_config(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            if "loss" in metrics and (warning := self.loss_monitor.add(step, metrics["loss"])) is not None:
                tqdm.write(warning.render(get_language()), file=sys.stderr)
        self.accelerator.log(dict(metrics), step=step)

    def save_sample_grid(self, step: int, grid: np.ndarray) -> None:
        if self.accelerator.is_main_process:
            path = self.folder / "samples" / f"step-{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grid).save(path)

    def plot(self) -> None:
        """Plot all losses so far to losses.png."""
        if self.accelerator.is_main_process and (self.folder / METRICS_FILE).exists():
            from dianjing.train.trainer.plots import plot_losses

            plot_losses(read_metrics(self.folder), self.folder / "losses.png")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; none without that file."""
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def get_peak_memory_gib(device: torch.device) -> float:
    """Peak memory allocated on a GPU, or peak resident memory of this process on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit_bytes = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 2**30


def _drop_lines_after(path: Path, step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        valid = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text("".join(valid), encoding="utf-8")
        temporary.replace(path)  # atomic: the run may be killed at any time


def _get_tracker_config(config: Mapping[str, Any]) -> dict[str, str | float]:
    """The settings of a run for trackers, which take numbers and strings only."""
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in flatten_settings(config).items()
    }
