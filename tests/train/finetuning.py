"""Helpers for tests of fine-tuning: a tiny config, its task and batches, and step profiles of tiny transformers."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dianjing.dit import DiT
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.run import build_training
from dianjing.train.step_profile import fit_block_counts, profile_step
from dianjing.train.tasks.base import TrainingSetup

CPU = torch.device("cpu")


def make_finetune_config(
    folder: Path, *, model: Path, datasets_file: Path, changes: dict | None = None, **run
) -> FinetuneRunConfig:
    """The config of a tiny fine-tuning run; `changes` are added to its sections, `run` to the section run."""
    settings = {"total_steps": 6, "batch_size": 2, "checkpoint_every": 3, "log_every": 1, "seed": 7}
    tree = {
        "task": "finetune",
        "run": {"folder": str(folder), "export_dtype": "float32", **settings, **run},
        "data": {
            "datasets_file": str(datasets_file),
            "size_px": 16,
            "cache_folder": str(datasets_file.parent / "cache"),
        },
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
        "model": {"name": str(model), "lora": {"rank": 2}},
        "samples": {"prompts": ["小猫", "a balloon"], "num_inference_steps": 2},
    }
    for section, values in (changes or {}).items():
        tree[section] = {**tree.get(section, {}), **values}
    config = parse_run_config(tree)
    assert isinstance(config, FinetuneRunConfig)
    return config


def get_export_folder(config: FinetuneRunConfig) -> Path:
    return config.run.folder / "export"


def build_setup(config: FinetuneRunConfig) -> TrainingSetup:
    """The task and the batches of a run."""
    config.run.folder.mkdir(parents=True, exist_ok=True)
    return build_training(config, None, Accelerator(cpu=True))


def overfit(setup: TrainingSetup, *, steps: int, learning_rate: float) -> list[float]:
    """Train on the first batch with fixed noise; returns the losses."""
    optimizer = torch.optim.Adam((p for p in setup.task.parameters() if p.requires_grad), learning_rate)
    batch, bucket = setup.batches[0], setup.batches.schedule.bucket_at(0)
    noise = setup.task.sample_noise(bucket, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        loss = setup.task(batch, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def load_transformer_config(model: Path) -> dict[str, Any]:
    return dict(DiT.from_config(DiT.load_config(model / "transformer")).config)


def extrapolate_saved_bytes(
    config: FinetuneRunConfig, folder: Path, transformer_config: dict[str, Any], shape: tuple[int, ...]
) -> tuple[int, int]:
    """Bytes that a step saves for the backward pass: extrapolated from small transformers, and measured."""
    interval = transformer_config["motion_block_interval"] if transformer_config.get("use_motion_blocks") else 1
    num_layers = transformer_config["num_layers"]
    counts = fit_block_counts(num_layers, config.model, motion_block_interval=interval)
    assert max(counts) < num_layers
    *parts, measured = [
        profile_step(
            config, folder, transformer_config | {"num_layers": n}, shape, batch_size=2, device=CPU
        ).saved_bytes
        for n in (*counts, num_layers)
    ]
    return round(sum(count * part for count, part in zip(counts.values(), parts, strict=True))), measured
