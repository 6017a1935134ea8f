"""Speed of fine-tuning compared with a loop as in diffusers' train_text_to_image, and the gain of each part.

    python -m benchmarks.training --model sticker

All loops use the same weights, images, captions, batch size and precision. The loop of diffusers reads each image and
encodes it and its caption at every step, updates all weights of HunyuanDiT2DModel by AdamW, and keeps an EMA, as
Dianjing does. Variants of it add one part of Dianjing's trainer each. Steps are interleaved.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from benchmarks.diffusers_training import LEARNING_RATE, LOOP_VARIANTS, DiffusersTrainingLoop, ImageCaptionDataset
from benchmarks.timing import Quantiles, compute_quantiles, compute_ratios, make_clock, time_call
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.data.loader import make_loader
from dianjing.train.data.samples import Batch
from dianjing.train.run import build_training
from dianjing.train.stickers import StickerWorld
from dianjing.train.trainer.loop import Trainer
from dianjing.weights.image_sizes import read_default_size_px
from dianjing.weights.resolve import resolve_model

WARMUP_STEPS = 3  # during which Dianjing's loops compile
COMPILED_MODEL_NAME = "dianjing, compiled model"
COMPILE_SETTINGS = {  # name: mode of `run.compile`, and whether the full model is one graph
    "dianjing, eager": ("none", False),
    "dianjing, compiled blocks": ("default", False),
    COMPILED_MODEL_NAME: ("default", True),
}


def write_sticker_images(folder: Path, *, count: int, size_px: int) -> None:
    """Write images of the sticker world with captions in both languages."""
    world = StickerWorld(size_px=size_px)
    for index in range(count):
        sample = world.get_image_sample(0, index)
        Image.fromarray(sample.image).save(folder / f"{index:04}.png")
        (folder / f"{index:04}.zh.txt").write_text(sample.text_zh, encoding="utf-8")
        (folder / f"{index:04}.en.txt").write_text(sample.text_en, encoding="utf-8")


def make_dianjing_step(
    model: str,
    image_folder: Path,
    *,
    batch_size: int,
    size_px: int,
    folder: Path,
    precision: str,
    compile_mode: str,
    compile_full_model: bool,
) -> Callable[[], object]:
    """Return a function that runs one step of Dianjing's trainer, with its caches filled, in a new `folder`."""
    folder.mkdir()
    datasets_file = folder / "datasets.toml"
    datasets_file.write_text(f"[[datasets]]\npath = {json.dumps(str(image_folder))}\n")
    config = parse_run_config(
        {
            "task": "finetune",
            "run": {
                "folder": str(folder / "run"),
                "total_steps": 10**9,
                "batch_size": batch_size,
                "mixed_precision": precision,
                "compile": compile_mode,
            },
            "data": {"datasets_file": str(datasets_file), "size_px": size_px, "cache_folder": str(folder / "cache")},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "model": {"name": model, "trainable": "all", "compile_full_model": compile_full_model},
            "objective": {"timestep_sampling": "uniform"},
        }
    )
    assert isinstance(config, FinetuneRunConfig)
    config.run.folder.mkdir()
    accelerator = Accelerator(mixed_precision=precision)
    job = build_training(config, None, accelerator)
    trainer = Trainer(job, config.run, config.optimizer, accelerator)
    steps = {"first_step": 0, "total_steps": config.run.total_steps}
    batches: Iterator[Batch] = iter(
        make_loader(job.batches, **steps, num_workers=0, prefetch_factor=2, pin_memory=False)
    )
    return lambda: trainer.train_step(batches)


def measure_training_speed(
    model: str, *, batch_size: int, num_rounds: int, num_images: int, precision: str
) -> dict[str, dict[str, Quantiles]]:
    """Return by loop the seconds a step, and the ratio to Dianjing's trainer with a compiled model."""
    source = resolve_model(model)
    size_px = read_default_size_px(source)
    with tempfile.TemporaryDirectory() as temporary_folder:
        folder = Path(temporary_folder)
        (folder / "images").mkdir()
        write_sticker_images(folder / "images", count=num_images, size_px=size_px)
        dataset = ImageCaptionDataset(folder / "images", size_px=size_px)
        accelerator = Accelerator(mixed_precision=precision)
        step_functions: dict[str, Callable[[], object]] = {
            name: DiffusersTrainingLoop(
                source, dataset, variant, batch_size=batch_size, accelerator=accelerator
            ).train_step
            for name, variant in LOOP_VARIANTS.items()
        }
        for name, (compile_mode, compile_full_model) in COMPILE_SETTINGS.items():
            step_functions[name] = make_dianjing_step(
                model,
                folder / "images",
                batch_size=batch_size,
                size_px=size_px,
                folder=folder / name,
                precision=precision,
                compile_mode=compile_mode,
                compile_full_model=compile_full_model,
            )
        clock = make_clock(accelerator.device)
        seconds: dict[str, list[float]] = {name: [] for name in step_functions}
        for round_index in range(num_rounds + WARMUP_STEPS):
            for name, step in step_functions.items():
                elapsed_s, _ = time_call(step, clock)
                if round_index >= WARMUP_STEPS:
                    seconds[name].append(elapsed_s)
    return {
        name: {
            "seconds": compute_quantiles(values),
            "ratio_to_dianjing": compute_quantiles(compute_ratios(values, seconds[COMPILED_MODEL_NAME])),
        }
        for name, values in seconds.items()
    }


def format_training_results(results: dict[str, dict[str, Quantiles]], *, batch_size: int) -> str:
    """Format the results as a Markdown table."""
    lines = ["| loop | samples/s | time relative to Dianjing |", "|---|---|---|"]
    for name, each in results.items():
        ratio = each["ratio_to_dianjing"]
        lines.append(
            f"| {name} | {batch_size / each['seconds'].median:.1f} | "
            f"{ratio.median:.2f} ({ratio.quartile_1:.2f}–{ratio.quartile_3:.2f}) |"
        )
    return "\n".join(lines)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--batch", type=int, default=32, help="default: that of the bundled model's training")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument(
        "--precision",
        choices=("no", "bf16"),
        default="bf16" if torch.accelerator.is_available() else "no",
        help="mixed precision of all loops (default: bf16, on a CPU no)",
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    results = measure_training_speed(
        arguments.model,
        batch_size=arguments.batch,
        num_rounds=arguments.rounds,
        num_images=arguments.images,
        precision=arguments.precision,
    )
    print(format_training_results(results, batch_size=arguments.batch))
    if arguments.json is not None:
        report = {name: {key: asdict(value) for key, value in each.items()} for name, each in results.items()}
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
