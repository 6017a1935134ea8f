"""Train the bundle at 256 px within minutes, on one GPU that is at hand once and not for long.

    python -m dianjing.train.recipes.gpu_once --out DIR [--minutes 8] [--from PREVIOUS]
    python -m dianjing.train.recipes.gpu_once --out DIR --unpack FOLDER

Each stage is a run of the trainer that ends with its share of the time and leaves weights; what is done so far is
packed into DIR after each, so that a run killed at any moment keeps the stages before. README.md beside this file says
what to carry to such a machine and what to do with what comes back. Exit codes: 0 done, 1 a stage failed, 2 usage,
75 stopped by a signal.
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
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil
import torch

from dianjing.pipelines.own_segmenting import FOLDER as SEGMENTER_FOLDER
from dianjing.train.__main__ import until_signalled
from dianjing.train.config import read_config
from dianjing.train.loop import Outcome
from dianjing.train.recipes.packing import pack, unpack, write_json
from dianjing.train.recipes.quick_evaluation import evaluate_within
from dianjing.train.recipes.sticker import build_bundle
from dianjing.train.running import train
from dianjing.train.sections import TransformerSection

RECIPES = Path(__file__).parent
LATENT_PX = 8  # pixels along a side to one latent
MIN_WORLD_PX = 32
MIN_STAGE_S = 1.0  # a stage whose time is gone makes its weights all the same, with a step or two
# Kept of a stage's time for its export, the model folder and the pack: a share, from some seconds to others
EXPORT_SHARE, MIN_EXPORT_S, MAX_EXPORT_S = 0.15, 3.0, 10.0
MODEL_STAGES = ("pictures", "field", "motion")  # each export holds all that the ones before it made
FAILED, USAGE, INTERRUPTED = 1, 2, 75


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run: its share of the time, its run file, and the stage whose weights it goes on from.

    run_file: None for the evaluation, which trains nothing. size_divisor: pictures are smaller by it. tiny: names of
    the lists in gpu_once_tiny.json.
    """

    name: str
    share: float
    run_file: str | None
    after: str | None = None
    size_divisor: int = 1
    tiny: tuple[str, ...] = ()


STAGES = (
    Stage(name="autoencoder", share=0.14, run_file="gpu_once_autoencoder.toml", tiny=("autoencoder",)),
    Stage(name="pictures", share=0.50, run_file="gpu_once_pictures.toml", tiny=("pictures",)),
    Stage(
        name="field", share=0.09, run_file="gpu_once_field.toml", after="pictures", size_divisor=4,
        tiny=("pictures", "clips"),
    ),
    Stage(name="motion", share=0.13, run_file="gpu_once_motion.toml", after="field", tiny=("pictures", "clips")),
    Stage(name="segmenter", share=0.06, run_file="gpu_once_segmenter.toml", tiny=("segmenter",)),
    Stage(name="evaluation", share=0.08, run_file=None),
)  # fmt: skip


def seconds_for(stages: Sequence[Stage], index: int, remaining_s: float) -> float:
    """The time of a stage: its share of what remains, so that time which one leaves goes to those after it."""
    share = stages[index].share / sum(stage.share for stage in stages[index:])
    return max(MIN_STAGE_S, remaining_s * share)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the command line asks for; work holds the runs, and previous the unpacked weights to go on from."""

    out: Path
    work: Path
    minutes: float
    size_px: int
    previous: Path | None
    is_tiny: bool

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() and not self.is_tiny else "cpu"

    def export(self, stage: str) -> Path:
        return self.work / stage / "export"

    def bundle(self, stage: str) -> Path:
        """The model folder after a stage."""
        return self.work / "bundles" / stage


def training_seconds(seconds: float) -> float:
    """What a stage may train of its time, at least half."""
    export_s = min(max(EXPORT_SHARE * seconds, MIN_EXPORT_S), MAX_EXPORT_S)
    return max(seconds - export_s, seconds / 2)


def overrides_for(stage: Stage, plan: Plan, seconds: float) -> list[str]:
    """What is set beside the run file of a stage, as `--set` takes it."""
    values: dict[str, Any] = {
        "run.folder": plan.work / stage.name,
        "run.max_minutes": training_seconds(seconds) / 60,
        "data.size_px": max(MIN_WORLD_PX, plan.size_px // stage.size_divisor),
        "data.workers": max(1, (os.cpu_count() or 1) - 2),
    }
    if stage.name in MODEL_STAGES:
        values["model.vae"] = plan.export("autoencoder") / "vae"
    if stage.after is not None:
        values["model.start_from"] = plan.export(stage.after)
    elif plan.previous is not None:
        values |= previous_weights(stage.name, plan.previous)
    lines = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    if plan.is_tiny:
        tiny = json.loads((RECIPES / "gpu_once_tiny.json").read_text(encoding="utf-8"))
        lines += [line for name in ("every", *stage.tiny) for line in tiny[name]]
    return lines


def previous_weights(name: str, previous: Path) -> dict[str, Any]:
    """Settings by which a stage goes on from the run before it; motion blocks of that model stay as they are."""
    folders = {"autoencoder": previous / "vae", "pictures": previous, "segmenter": previous / SEGMENTER_FOLDER}
    config_path = (previous / "transformer" if name == "pictures" else folders[name]) / "config.json"
    if not config_path.is_file():
        return {}
    config = json.loads(config_path.read_text(encoding="utf-8"))
    shape = TransformerSection.model_fields.keys() & config.keys() if name == "pictures" else set()
    return {"model.start_from": folders[name], **{f"model.transformer.{key}": config[key] for key in sorted(shape)}}


def assemble(plan: Plan, done: Sequence[str]) -> Path:
    """The model folder after the last of the stages that are done; it is complete or absent."""
    target = plan.bundle(done[-1])
    partial = target.with_name(f"{target.name}.partial")
    partial.mkdir(parents=True)
    models = [name for name in done if name in MODEL_STAGES]
    if models:
        export = plan.export(models[-1])
        set_sample_size(export / "transformer" / "config.json", plan.size_px // LATENT_PX)
        segmenter = plan.export("segmenter") if "segmenter" in done else plan.previous
        found = None if segmenter is None else segmenter / SEGMENTER_FOLDER
        build_bundle(export, partial, segmenter=found if found is not None and found.is_dir() else None)
    else:
        shutil.copytree(plan.export("autoencoder") / "vae", partial / "vae")
    partial.rename(target)
    return target


def set_sample_size(config_path: Path, sample_size: int) -> None:
    """Latents along a side, which a stage that trains on smaller pictures would leave too small."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    write_json(config_path, {**config, "sample_size": sample_size})


def figures_of(run_folder: Path) -> dict[str, Any]:
    """What metrics.jsonl says of a run: its samples, how fast they came, and how long it waited for data."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if "samples_per_s" in line]
    if not logged:
        return {"steps": 0}
    steady = logged[1:] or logged  # the first lines hold the compilation and cold workers
    return {
        "steps": logged[-1]["step"],
        "loss": round(logged[-1]["loss"], 4),
        "samples_per_s": round(median(line["samples_per_s"] for line in steady), 1),
        "data_wait": round(mean(line["data_wait"] for line in steady), 4),
        "peak_memory_gib": round(logged[-1]["peak_memory_gib"], 2),
    }


def run_stage(stage: Stage, plan: Plan, done: Sequence[str], seconds: float, stop: Callable[[], bool]) -> dict:
    """One stage to its end; returns its figures. The bundle of the evaluation has its report in it."""
    if stage.run_file is None:
        source = plan.bundle(done[-1])
        return evaluate_within(source, plan.bundle(stage.name), seconds=seconds, device=plan.device)
    config = read_config(RECIPES / stage.run_file, overrides_for(stage, plan, seconds))
    outcome = train(config, resume="none", wants_stop=stop)
    if outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    figures = figures_of(plan.work / stage.name)
    gc.collect()
    torch.compiler.reset()
    if plan.device == "cuda":
        torch.cuda.empty_cache()
    return figures


def missing_for(stage: Stage, done: Sequence[str]) -> str | None:
    """The stage that this one needs and that did not end well."""
    needed = {"pictures": "autoencoder", "evaluation": "pictures"}.get(stage.name, stage.after)
    return None if needed is None or needed in done else needed


def run_stages(plan: Plan, stages: Sequence[Stage], stop: Callable[[], bool]) -> list[str]:
    """All stages in their time; packs what is done after each. Returns the names of those that did not end well."""
    started = time.perf_counter() - (time.time() - psutil.Process().create_time())  # imports take seconds, too
    done: list[str] = []
    report: dict[str, Mapping[str, Any]] = {}
    for index, stage in enumerate(stages):
        begun = time.perf_counter()
        seconds = seconds_for(stages, index, 60 * plan.minutes - (begun - started))
        print(f"{stage.name}: {seconds:.0f} s", flush=True)
        try:
            if (needed := missing_for(stage, done)) is not None:
                raise RuntimeError(f"stage {needed!r}, which it goes on from, did not end well")
            figures = run_stage(stage, plan, done, seconds, stop)
            done.append(stage.name)
            pack(assemble(plan, done) if stage.run_file is not None else plan.bundle(stage.name), plan.out)
        except Exception as error:  # the stages that can do without it still have their time
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {error}"}
            done = [name for name in done if name != stage.name]
        used = time.perf_counter() - begun
        report[stage.name] = {"planned_s": round(seconds, 1), "used_s": round(used, 1), **figures}
        write_json(plan.out / "run.json", {"minutes": plan.minutes, "size_px": plan.size_px, "stages": report})
        print(json.dumps({"stage": stage.name, **report[stage.name]}), flush=True)
    return [stage.name for stage in stages if stage.name not in done]


def find_previous(given: Path | None, work: Path) -> Path | None:
    """The model folder to go on from: itself, or unpacked from what an earlier run wrote.

    Raises: ValueError where there is neither.
    """
    if given is None or (given / "vae").is_dir():
        return given
    unpack(given, work / "previous")
    return work / "previous"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.gpu_once", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the few files that are brought back")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_once"), help="folder of the runs themselves")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default 8)")
    parser.add_argument("--size", type=int, default=None, help="side of the pictures in px (default 256; tiny 64)")
    parser.add_argument("--from", type=Path, dest="previous", help="go on from an earlier --out, or a model folder")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU, to try the stages")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="make the model folder from what --out holds")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism
    try:
        if given.unpack is not None:
            unpack(given.out, given.unpack)
            return 0
        if given.tiny:
            os.environ["ACCELERATE_USE_CPU"] = "true"
        given.work.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=given.work))
        size_px = (64 if given.tiny else 256) if given.size is None else given.size
        previous = find_previous(given.previous, work)
        plan = Plan(
            out=given.out, work=work, minutes=given.minutes, size_px=size_px, previous=previous, is_tiny=given.tiny
        )
        failed = run_stages(plan, STAGES, until_signalled())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; what was done before is packed", file=sys.stderr)
        return INTERRUPTED
    print(f"did not end well: {', '.join(failed)}" if failed else "done", flush=True)
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
