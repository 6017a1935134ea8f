"""Peak memory of fine-tuning at the width of Hunyuan-DiT, compared with the estimate of --dry-run.

    python -m benchmarks.memory --layers 8 --sizes-px 64 256

The bundled model gets a transformer of 16 heads of 88 with random weights. Each row is a run in its own process: its
peak without the memory of the imported libraries, and the estimate for the same configuration. Pages of the weights
file count if training steps read them, such as frozen float32 weights; pages that only loading reads do not, since the
system can evict them.
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
IMAGE_ONLY_CONFIG = {"use_motion_blocks": False, "use_flow_field": False, "max_regions": 0}  # as Hunyuan-DiT
NUM_STEPS = 3
RUN_VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"model": {"trainable": "all"}},
    "all, recomputed": {"model": {"trainable": "all", "gradient_checkpointing_interval": 1}},
    "lora": {"model": {"trainable": "lora"}},
    "lora, bf16": {"model": {"trainable": "lora"}, "run": {"mixed_precision": "bf16"}},
}
# a process that has imported what a run imports
IDLE_PROCESS_CODE = """
import time
from dianjing.train import run
from dianjing.train.tasks import finetune, finetune_build
time.sleep(1)
"""
POLL_INTERVAL_S = 0.02
WEIGHTS_FILE = "transformer/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """Estimated and measured peak of one run, in GiB."""

    estimated_gib: float
    measured_gib: float

    @property
    def ratio(self) -> float:
        return self.measured_gib / self.estimated_gib


def write_wide_model(folder: Path, *, layers: int) -> None:
    """Write the bundled model with a transformer of Hunyuan-DiT's width and random weights."""
    source = resolve_model("sticker")
    copytree(source, folder, ignore=ignore_patterns("transformer", "*.md", "*.png"))
    config = DiT.load_config(source / "transformer")
    torch.manual_seed(0)
    DiT.from_config({**config, **WIDE_CONFIG, **IMAGE_ONLY_CONFIG, "num_layers": layers}).save_pretrained(
        folder / "transformer"
    )


def write_noise_images(folder: Path, *, size_px: int, count: int = 16) -> None:
    """Write images of random pixels with captions."""
    folder.mkdir()
    for index in range(count):
        levels = np.random.default_rng(index).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("a cat on the grass", encoding="utf-8")


def make_run_config(
    folder: Path, overrides: Mapping[str, Any], *, name: str, batch_size: int, size_px: int
) -> dict[str, Any]:
    """Return the run file of a row, as a dict of sections."""
    config_dict: dict[str, Any] = {
        "task": "finetune",
        "run": {"folder": str(folder / name), "total_steps": NUM_STEPS, "batch_size": batch_size, "log_every": 1},
        "data": {
            "datasets_file": str(folder / "datasets.toml"),
            "size_px": size_px,
            "cache_folder": str(folder / "cache"),
        },
        "optimizer": {"learning_rate": 1e-5},
        "model": {"name": str(folder / "model")},
        "samples": {"prompts": ["a cat on the grass"], "num_inference_steps": 1},
    }
    for section, values in overrides.items():
        config_dict[section] = {**config_dict[section], **values}
    return config_dict


def measure_training_memory(
    *, layers: int, batch_size: int, sizes_px: Sequence[int]
) -> Iterator[tuple[str, int, MemoryResult]]:
    """Yield the name, the size in px and the memory of each row."""
    idle_gib = _measure_peak([sys.executable, "-c", IDLE_PROCESS_CODE])
    for size_px in sizes_px:
        with tempfile.TemporaryDirectory() as temporary_folder:
            folder = Path(temporary_folder)
            write_wide_model(folder / "model", layers=layers)
            write_noise_images(folder / "images", size_px=size_px)
            (folder / "datasets.toml").write_text('[[datasets]]\npath = "images"\n')
            for name, overrides in RUN_VARIANTS.items():
                run_name = name.replace(", ", "-")
                config_dict = make_run_config(folder, overrides, name=run_name, batch_size=batch_size, size_px=size_px)
                estimated_gib = _estimate_gib(config_dict, folder / "model", (size_px, size_px))
                measured_gib = _measure_run_peak(folder, config_dict) - idle_gib
                yield name, size_px, MemoryResult(estimated_gib=estimated_gib, measured_gib=measured_gib)


def _estimate_gib(config_dict: Mapping[str, Any], model_folder: Path, size_px: tuple[int, int]) -> float:
    config = parse_run_config(config_dict)
    assert isinstance(config, FinetuneRunConfig)
    return estimate_memory(config, model_folder, size_px, num_processes=1, device=torch.device("cpu")).total / GIB


def _measure_run_peak(folder: Path, config_dict: Mapping[str, Any]) -> float:
    """Measure a run until its last step; the checkpoint after it, which holds a copy of everything, does not count."""
    file, metrics_path = folder / "run.toml", Path(config_dict["run"]["folder"]) / "metrics.jsonl"
    lines = (f"{key} = {json.dumps(value)}" for key, value in config_dict.items() if not isinstance(value, dict))
    tables = (
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in config_dict.items()
        if isinstance(values, dict)
    )
    file.write_text("\n".join([*lines, *tables]))
    return _measure_peak([sys.executable, "-m", "dianjing.train", str(file)], metrics_path)


def _measure_peak(command: list[str], metrics_path: Path | None = None) -> float:
    """Return the peak of a process's private memory in GiB, until its metrics have the last step or it ends.

    Raises: CalledProcessError.
    """
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        metrics = metrics_path.read_text() if metrics_path is not None and metrics_path.is_file() else ""
        if f'"step": {NUM_STEPS}' not in metrics:
            peak = max(peak, _get_private_bytes(process.pid, has_loaded=bool(metrics)))
        time.sleep(POLL_INTERVAL_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / GIB


def _get_private_bytes(pid: int, *, has_loaded: bool) -> int:
    """Return a process's anonymous memory and, once it has loaded, its resident pages of the weights file, in bytes."""
    try:
        maps = psutil.Process(pid).memory_maps()
    except psutil.Error:  # the process has ended
        return 0
    return sum(each.rss if has_loaded and each.path.endswith(WEIGHTS_FILE) else each.anonymous for each in maps)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sizes-px", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args()
    print("| trained | px | estimated | measured | ratio |\n|---|---|---|---|---|")
    rows = measure_training_memory(layers=arguments.layers, batch_size=arguments.batch, sizes_px=arguments.sizes_px)
    for name, size_px, result in rows:
        estimated, measured = (f"{gib:.2f} GiB" for gib in (result.estimated_gib, result.measured_gib))
        print(f"| {name} | {size_px} | {estimated} | {measured} | {result.ratio:.2f} |", flush=True)


if __name__ == "__main__":
    _main()
