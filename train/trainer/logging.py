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

from dianjing.errors import DianjingError

METRICS_FILE = "metrics.jsonl"
TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # the library that each tracker needs


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are installed, since accelerate goes on without them. Raises: DianjingError if one is not."""
    for name in names:
        if importlib.util.find_spec(TRACKER_MODULES[name]) is None:
            raise DianjingError("tracker_missing", tracker=name, package=TRACKER_MODULES[name])


class RunLogger:
    """Writes the logs of a run from the main process."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Drop the metrics after `step`, which will be written again, and write config.json."""
        if self.accelerator.is_main_process:
            _drop_lines_after(self.folder / METRICS_FILE, step)
            text = json.dumps(config, ensure_ascii=False, indent=1)
            (self.folder / "config.json").write_text(text, encoding="utf-8")
        if self.accelerator.log_with:
            self.accelerator.init_trackers("dianjing", config=_flatten_config(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
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

            lines = (self.folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
            plot_losses([json.loads(line) for line in lines], self.folder / "losses.png")


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


def _flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """{"run": {"seed": 0}} -> {"run.seed": 0}; trackers take numbers and strings only."""
    flat: dict[str, str | float] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else json.dumps(value)
    return flat
