"""Peak memory of fine-tuning at the width of Hunyuan-DiT, beside what --dry-run says that it needs.

    python -m benchmarks.memory --layers 8 --sizes-px 64 256

A transformer of 16 heads of 88 with random weights stands in for the embedded model's. Each row is a run of its own
process: its peak, without what the libraries take by themselves; and the planner's figure for the same config. Of the
weights' file count the pages that steps read, as those of frozen float32 weights; what only loading reads does not,
since the system takes it back when it needs it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from dianjing.dit import DiT
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.memory_estimate import GIB, estimate_memory
from dianjing.weights.resolve import resolve_model

WIDE_CONFIG = {"num_attention_heads": 16, "attention_head_dim": 88, "hidden_size": 1408}
IMAGE_ONLY_CONFIG = {"use_motion_blocks": False, "use_flow_field": False, "max_regions": 0}  # as the published one
NUM_STEPS = 3
RUN_VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"model": {"trainable": "all"}},
    "all, recomputed": {"model": {"trainable": "all", "gradient_checkpointing_interval": 1}},
    "lora": {"model": {"trainable": "lora"}},
    "lora, bf16": {"model": {"trainable": "lora"}, "run": {"mixed_precision": "bf16"}},
}
# a process that has loaded what a run loads, and has run none
IDLE_PROCESS_CODE = """
import time
from dianjing.train import running
from dianjing.train.finetune import preparing, task
time.sleep(1)
"""
POLL_INTERVAL_S = 0.02  # memory is looked at
WEIGHTS_FILE = "transformer/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """GiB."""

    estimated_gib: float
    measured_gib: float

    @property
    def ratio(self) -> float:
        return self.measured_gib / self.estimated_gib


def write_wide_model(folder: Path, *, layers: int) -> None:
    """The embedded model with a transformer of the real width, weights drawn by lot."""
    source = resolve_model("sticker")
    copytree(source, folder, ignore=ignore_patterns("transformer", "*.md", "*.png"))
    config = DiT.load_config(source / "transformer")
    torch.manual_seed(0)
    DiT.from_config({**config, **WIDE_CONFIG, **IMAGE_ONLY_CONFIG, "num_layers": layers}).save_pretrained(
        folder / "transformer"
    )


def write_noise_images(folder: Path, *, size_px: int, count: int = 16) -> None:
    folder.mkdir()
    for index in range(count):
        levels = np.random.default_rng(index).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("a cat on the grass", encoding="utf-8")


def make_run_config(
    folder: Path, overrides: Mapping[str, Any], *, name: str, batch_size: int, size_px: int
) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "task": "finetune",
        "run": {"folder": str(folder / name), "total_steps": NUM_STEPS, "batch_size": batch_size, "log_every": 1},
        "data": {"datasets_file": str(folder / "sets.toml"), "size_px": size_px, "cache": str(folder / "cache")},
        "optimizer": {"learning_rate": 1e-5},
        "model": {"name": str(folder / "model")},
        "samples": {"prompts": ["a cat on the grass"], "num_inference_steps": 1},
    }
    for section, values in overrides.items():
        tree[section] = {**tree[section], **values}
    return tree


def measure_training_memory(
    *, layers: int, batch_size: int, sizes_px: Sequence[int]
) -> Iterator[tuple[str, int, MemoryResult]]:
    """What is trained, at what size, and its memory."""
    empty = _measure_peak([sys.executable, "-c", IDLE_PROCESS_CODE])
    for size_px in sizes_px:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_wide_model(place / "model", layers=layers)
            write_noise_images(place / "pictures", size_px=size_px)
            (place / "sets.toml").write_text('[[datasets]]\npath = "pictures"\n')
            for name, row in RUN_VARIANTS.items():
                tree = make_run_config(place, row, name=name.replace(", ", "-"), batch_size=batch_size, size_px=size_px)
                planned = _estimate_gib(tree, place / "model", (size_px, size_px))
                yield (
                    name,
                    size_px,
                    MemoryResult(estimated_gib=planned, measured_gib=_measure_run_peak(place, tree) - empty),
                )


def _estimate_gib(config_dict: Mapping[str, Any], model_folder: Path, size_px: tuple[int, int]) -> float:
    config = parse_run_config(config_dict)
    assert isinstance(config, FinetuneRunConfig)
    return estimate_memory(config, model_folder, size_px, num_processes=1, device=torch.device("cpu")).total / GIB


def _measure_run_peak(folder: Path, config_dict: Mapping[str, Any]) -> float:
    """Until the last step: a checkpoint, which copies all once more, is written after it."""
    file, journal = folder / "run.toml", Path(config_dict["run"]["folder"]) / "metrics.jsonl"
    lines = (f"{key} = {json.dumps(value)}" for key, value in config_dict.items() if not isinstance(value, dict))
    tables = (
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in config_dict.items()
        if isinstance(values, dict)
    )
    file.write_text("\n".join([*lines, *tables]))
    return _measure_peak([sys.executable, "-m", "dianjing.train", str(file)], journal)


def _measure_peak(command: list[str], metrics_path: Path | None = None) -> float:
    """GiB of a process's own memory, until its journal tells of the last step or it ends.

    Raises: CalledProcessError.
    """
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        written = metrics_path.read_text() if metrics_path is not None and metrics_path.is_file() else ""
        if f'"step": {NUM_STEPS}' not in written:
            peak = max(peak, _get_private_bytes(process.pid, has_loaded=bool(written)))
        time.sleep(POLL_INTERVAL_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / GIB


def _get_private_bytes(pid: int, *, has_loaded: bool) -> int:
    """What a process has for itself and, once it has loaded, what it has of the weights' file."""
    try:
        maps = psutil.Process(pid).memory_maps()
    except psutil.Error:  # it has ended
        return 0
    return sum(each.rss if has_loaded and each.path.endswith(WEIGHTS_FILE) else each.anonymous for each in maps)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sizes-px", type=int, nargs="+", default=[64, 256])
    given = parser.parse_args()
    print("| trained | px | planned | measured | |\n|---|---|---|---|---|")
    for name, px, found in measure_training_memory(
        layers=given.layers, batch_size=given.batch, sizes_px=given.sizes_px
    ):
        print(
            f"| {name} | {px} | {found.estimated_gib:.2f} GiB | {found.measured_gib:.2f} GiB | {found.ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    _main()
