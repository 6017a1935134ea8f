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
from dianjing.train.config import parse_config
from dianjing.train.finetune.planning import GIB, estimate
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.weights.fetching import find_folder

WIDE = {"num_attention_heads": 16, "attention_head_dim": 88, "hidden_size": 1408}
PICTURES_ALONE = {"use_motion_blocks": False, "use_motion_field": False, "max_regions": 0}  # as the published one
STEPS = 3
ROWS: dict[str, dict[str, Any]] = {
    "all": {"model": {"trained": "all"}},
    "all, recomputed": {"model": {"trained": "all", "recompute_every": 1}},
    "lora": {"model": {"trained": "lora"}},
    "lora, bf16": {"model": {"trained": "lora"}, "run": {"mixed_precision": "bf16"}},
}
# a process that has loaded what a run loads, and has run none
EMPTY = """
import time
from dianjing.train import running
from dianjing.train.finetune import preparing, task
time.sleep(1)
"""
EVERY_S = 0.02  # memory is looked at
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Found:
    """GiB."""

    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.measured / self.planned


def write_model(folder: Path, *, layers: int) -> None:
    """The embedded model with a transformer of the real width, weights drawn by lot."""
    source = find_folder("sticker")
    copytree(source, folder, ignore=ignore_patterns("transformer", "*.md", "*.png"))
    config = DiT.load_config(source / "transformer")
    torch.manual_seed(0)
    DiT.from_config({**config, **WIDE, **PICTURES_ALONE, "num_layers": layers}).save_pretrained(folder / "transformer")


def write_pictures(folder: Path, *, size_px: int, count: int = 16) -> None:
    folder.mkdir()
    for index in range(count):
        levels = np.random.default_rng(index).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("a cat on the grass", encoding="utf-8")


def settings(place: Path, row: Mapping[str, Any], *, name: str, batch_size: int, size_px: int) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "task": "finetune",
        "run": {"folder": str(place / name), "total_steps": STEPS, "batch_size": batch_size, "log_every": 1},
        "data": {"sets": str(place / "sets.toml"), "size_px": size_px, "cache": str(place / "cache")},
        "optimizer": {"learning_rate": 1e-5},
        "model": {"name": str(place / "model")},
        "samples": {"prompts": ["a cat on the grass"], "steps": 1},
    }
    for section, values in row.items():
        tree[section] = {**tree[section], **values}
    return tree


def measure(*, layers: int, batch_size: int, sizes_px: Sequence[int]) -> Iterator[tuple[str, int, Found]]:
    """What is trained, at what size, and its memory."""
    empty = _peak([sys.executable, "-c", EMPTY])
    for size_px in sizes_px:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_model(place / "model", layers=layers)
            write_pictures(place / "pictures", size_px=size_px)
            (place / "sets.toml").write_text('[[sets]]\npath = "pictures"\n')
            for name, row in ROWS.items():
                tree = settings(place, row, name=name.replace(", ", "-"), batch_size=batch_size, size_px=size_px)
                planned = _plan(tree, place / "model", (size_px, size_px))
                yield name, size_px, Found(planned=planned, measured=_peak_of_run(place, tree) - empty)


def _plan(tree: Mapping[str, Any], model: Path, shape: tuple[int, int]) -> float:
    config = parse_config(tree)
    assert isinstance(config, FinetuneRun)
    return estimate(config, model, shape, processes=1, device=torch.device("cpu")).total / GIB


def _peak_of_run(place: Path, tree: Mapping[str, Any]) -> float:
    """Until the last step: a checkpoint, which copies all once more, is written after it."""
    file, journal = place / "run.toml", Path(tree["run"]["folder"]) / "metrics.jsonl"
    lines = (f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict))
    tables = (
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in tree.items()
        if isinstance(values, dict)
    )
    file.write_text("\n".join([*lines, *tables]))
    return _peak([sys.executable, "-m", "dianjing.train", str(file)], journal)


def _peak(command: list[str], journal: Path | None = None) -> float:
    """GiB of a process's own memory, until its journal tells of the last step or it ends.

    Raises: CalledProcessError.
    """
    process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        written = journal.read_text() if journal is not None and journal.is_file() else ""
        if f'"step": {STEPS}' not in written:
            peak = max(peak, _own_bytes(process.pid, has_loaded=bool(written)))
        time.sleep(EVERY_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / GIB


def _own_bytes(pid: int, *, has_loaded: bool) -> int:
    """What a process has for itself and, once it has loaded, what it has of the weights' file."""
    try:
        maps = psutil.Process(pid).memory_maps()
    except psutil.Error:  # it has ended
        return 0
    return sum(each.rss if has_loaded and each.path.endswith(WEIGHTS) else each.anonymous for each in maps)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sizes-px", type=int, nargs="+", default=[64, 256])
    given = parser.parse_args()
    print("| trained | px | planned | measured | |\n|---|---|---|---|---|")
    for name, px, found in measure(layers=given.layers, batch_size=given.batch, sizes_px=given.sizes_px):
        print(f"| {name} | {px} | {found.planned:.2f} GiB | {found.measured:.2f} GiB | {found.ratio:.2f} |", flush=True)


if __name__ == "__main__":
    _main()
