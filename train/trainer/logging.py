"""What a run tells while it goes on: metrics.jsonl, sample pictures, trackers, and a plot of the losses."""

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

METRICS_FILE = "metrics.jsonl"
TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # that each tracker needs


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for one whose library is not installed: accelerate would go on without it."""
    for name in names:
        if importlib.util.find_spec(TRACKER_MODULES[name]) is None:
            raise ValueError(f"run.trackers has {name!r}, which is not installed: pip install {TRACKER_MODULES[name]}")


class RunLogger:
    """The main process writes; the others keep silent."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Drop the lines after `step`, which are about to be written again, and write the config down."""
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
        """The losses so far, as losses.png."""
        if self.accelerator.is_main_process and (self.folder / METRICS_FILE).exists():
            from dianjing.train.trainer.plots import plot_losses

            lines = (self.folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
            plot_losses([json.loads(line) for line in lines], self.folder / "losses.png")


def get_peak_memory_gib(device: torch.device) -> float:
    """The most that was allocated on a GPU, or that this process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _drop_lines_after(path: Path, step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        beside = path.with_name(f"{path.name}.new")
        beside.write_text("".join(kept), encoding="utf-8")
        beside.replace(path)  # whole or as it was, whenever the run is killed


def _flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """{"run": {"seed": 0}} -> {"run.seed": 0}; trackers take no more than numbers and words."""
    flat: dict[str, str | float] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else json.dumps(value)
    return flat
