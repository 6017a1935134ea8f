"""Training of the bundle at 256 px within minutes, for a GPU that is available once and not for long.

    python -m dianjing.train.recipes.gpu_once --out FOLDER [--minutes 8] [--from PREVIOUS]
    python -m dianjing.train.recipes.gpu_once --out FOLDER --unpack MODEL_FOLDER

Each stage is a run of the trainer that ends with its share of the time and leaves weights. After each stage, the model
is packed into FOLDER, so that a run that is killed keeps the stages before. README.md beside this file says what to
carry to such a machine, and what to do with what comes back. Exit codes: 0 done, 1 a stage failed, 2 usage, 75 stopped
by a signal.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil
import torch

from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.train.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, StopSignal
from dianjing.train.config.run_file import read_run_config
from dianjing.train.recipes.bundle import build_bundle
from dianjing.train.recipes.gpu_once_stages import (
    GPU_STAGES,
    MODEL_STAGES,
    RECIPES,
    GpuOnceSettings,
    GpuStage,
    allot_seconds,
    make_overrides,
)
from dianjing.train.recipes.packing import pack_folder, unpack_folder, write_json
from dianjing.train.recipes.quick_evaluation import evaluate_within
from dianjing.train.run import train_model
from dianjing.train.trainer.loop import Outcome

VAE_SCALE_FACTOR = 8


def assemble_bundle(settings: GpuOnceSettings, done: Sequence[str]) -> Path:
    """Assemble the model folder after the last of the stages that are done; it is complete or absent."""
    target = settings.get_bundle(done[-1])
    partial = target.with_name(f"{target.name}.partial")
    partial.mkdir(parents=True)
    model_stages = [name for name in done if name in MODEL_STAGES]
    if model_stages:
        export = settings.get_export(model_stages[-1])
        set_sample_size(export / "transformer" / "config.json", settings.size_px // VAE_SCALE_FACTOR)
        source = settings.get_export("segmenter") if "segmenter" in done else settings.previous
        segmenter = None if source is None else source / SEGMENTER_FOLDER
        build_bundle(export, partial, segmenter=segmenter if segmenter is not None and segmenter.is_dir() else None)
    else:
        shutil.copytree(settings.get_export("autoencoder") / "vae", partial / "vae")
    partial.rename(target)
    return target


def set_sample_size(config_path: Path, sample_size: int) -> None:
    """Write the number of latents per side, which a stage with smaller images leaves too small."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    write_json(config_path, {**config, "sample_size": sample_size})


def summarize_run(run_folder: Path) -> dict[str, Any]:
    """Summarize metrics.jsonl of a run: steps, loss, throughput, the fraction of time without data, and memory."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if "samples_per_s" in line]
    if not logged:
        return {"steps": 0}
    steady = logged[1:] or logged  # the first log includes compilation and cold workers
    return {
        "steps": logged[-1]["step"],
        "loss": round(logged[-1]["loss"], 4),
        "samples_per_s": round(median(line["samples_per_s"] for line in steady), 1),
        "data_wait_fraction": round(mean(line["data_wait_fraction"] for line in steady), 4),
        "peak_memory_gib": round(logged[-1]["peak_memory_gib"], 2),
    }


def run_stage(
    stage: GpuStage, settings: GpuOnceSettings, done: Sequence[str], stage_s: float, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Run one stage and return its figures; the evaluation makes a bundle with its report.

    Raises: KeyboardInterrupt if a signal stopped it.
    """
    if stage.run_file is None:
        source, target = settings.get_bundle(done[-1]), settings.get_bundle(stage.name)
        return evaluate_within(source, target, seconds=stage_s, device=settings.device)
    config = read_run_config(RECIPES / stage.run_file, make_overrides(stage, settings, stage_s))
    outcome = train_model(config, resume="none", should_stop=should_stop)
    if outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    figures = summarize_run(settings.work / stage.name)
    gc.collect()
    torch.compiler.reset()
    if settings.device == "cuda":
        torch.cuda.empty_cache()
    return figures


def find_missing_stage(stage: GpuStage, done: Sequence[str]) -> str | None:
    """Return the stage that this one needs if it is not done, else None."""
    needed = {"text_to_image": "autoencoder", "evaluation": "text_to_image"}.get(stage.name, stage.base)
    return None if needed is None or needed in done else needed


def run_stages(settings: GpuOnceSettings, stages: Sequence[GpuStage], should_stop: Callable[[], bool]) -> list[str]:
    """Run all stages in their time and pack what is done after each; return the names of those that failed."""
    started = time.perf_counter() - (time.time() - psutil.Process().create_time())  # imports take seconds, too
    done: list[str] = []
    report: dict[str, Mapping[str, Any]] = {}
    for index, stage in enumerate(stages):
        stage_start = time.perf_counter()
        stage_s = allot_seconds(stages, index, 60 * settings.minutes - (stage_start - started))
        print(f"{stage.name}: {stage_s:.0f} s", flush=True)
        try:
            if (missing := find_missing_stage(stage, done)) is not None:
                raise RuntimeError(f"stage {missing!r}, which it starts from, failed")
            figures = run_stage(stage, settings, done, stage_s, should_stop)
            done.append(stage.name)
            is_run = stage.run_file is not None
            pack_folder(assemble_bundle(settings, done) if is_run else settings.get_bundle(stage.name), settings.out)
        except Exception as error:  # later stages that do not need it still run
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {error}"}
            done = [name for name in done if name != stage.name]
        used_s = time.perf_counter() - stage_start
        report[stage.name] = {"planned_s": round(stage_s, 1), "used_s": round(used_s, 1), **figures}
        summary = {"minutes": settings.minutes, "size_px": settings.size_px, "stages": report}
        write_json(settings.out / "run.json", summary)
        print(json.dumps({"stage": stage.name, **report[stage.name]}), flush=True)
    return [stage.name for stage in stages if stage.name not in done]


def find_previous(path: Path | None, work: Path) -> Path | None:
    """Return the model folder to start from: the path itself, or unpacked from the output of an earlier run.

    Raises: DianjingError if the path is neither.
    """
    if path is None or (path / "vae").is_dir():
        return path
    unpack_folder(path, work / "previous")
    return work / "previous"


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.gpu_once", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the few files to bring back")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_once"), help="folder for the runs themselves")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default: 8)")
    parser.add_argument("--size", type=int, help="side of the images in px (default: 256; tiny: 64)")
    parser.add_argument("--from", type=Path, dest="previous", help="start from an earlier --out, or a model folder")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU, to try the stages")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="restore the model folder from --out, and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _make_parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers run in parallel
    try:
        if arguments.unpack is not None:
            unpack_folder(arguments.out, arguments.unpack)
            return 0
        if arguments.tiny:
            os.environ["ACCELERATE_USE_CPU"] = "true"
        arguments.work.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=arguments.work))
        default_size_px = 64 if arguments.tiny else 256
        settings = GpuOnceSettings(
            out=arguments.out,
            work=work,
            minutes=arguments.minutes,
            size_px=default_size_px if arguments.size is None else arguments.size,
            previous=find_previous(arguments.previous, work),
            is_tiny=arguments.tiny,
        )
        stop_signal = StopSignal()
        stop_signal.install()
        stop_signal.on_start()  # every stage saves what it has
        failed = run_stages(settings, GPU_STAGES, stop_signal)
    except DianjingError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("stopped; the stages before are packed", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"failed: {', '.join(failed)}" if failed else "done", flush=True)
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
