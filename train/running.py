"""A run from its config to its export, on one process or many."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from dianjing.train import objectives, worlds, zero
from dianjing.train.cards import write_card
from dianjing.train.checkpoints import Checkpoint, newest_valid, read_checkpoint
from dianjing.train.config import Run
from dianjing.train.data import World, loader, repeat_batches
from dianjing.train.finetune import preparing as finetuning
from dianjing.train.finetune.planning import dry_run
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.loop import SNAPSHOTS, Job, Outcome, Trainer
from dianjing.train.optimizing import check_optimizer
from dianjing.train.plotting import plot_noise
from dianjing.train.posthoc import reconstruct
from dianjing.train.sections import AutoencoderRun, SegmenterRun
from dianjing.train.states import weights_of
from dianjing.train.text_to_image import noising_of
from dianjing.train.watching import check_trackers

PLOTTED = 20_000  # timesteps


def find_checkpoint(folder: Path, resume: str) -> Checkpoint | None:
    """What `--resume` asks for; names every checkpoint that had to be skipped."""
    if resume not in ("auto", "none"):
        return read_checkpoint(Path(resume))
    found, skipped = newest_valid(folder)
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if resume == "none" and (found or skipped):
        raise ValueError(f"{folder} holds checkpoints; --resume auto goes on from them, "
                         "or --set run.folder=... starts elsewhere")  # fmt: skip
    return found


def has_unused_weights(config: Run) -> bool:
    """Of several kinds of sample, none passes through all the weights."""
    return bool(config.data.num_frames) if isinstance(config, FinetuneRun) else len(config.data.buckets) > 1


def prepare(config: Run, world: World | None, accelerator: Accelerator) -> Job:
    """What is trained, and on what; the sticker world where no other is given."""
    if isinstance(config, FinetuneRun):
        return finetuning.prepare(config, accelerator)
    return worlds.prepare(config, world or worlds.sticker_world(config), accelerator)


def start(config: Run) -> Accelerator:
    """Set up this process, and make the run's folder."""
    run = config.run
    check_trackers(run.trackers)
    check_optimizer(config.optimizer)
    torch.set_float32_matmul_precision(run.matmul_precision)
    torch.backends.cudnn.allow_tf32 = run.matmul_precision != "highest"
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # a quarter of the autoencoder's time on a CPU
    check_launch(config)
    deepspeed = zero.plugin_for(config.optimizer.max_grad_norm)
    run.folder.mkdir(parents=True, exist_ok=True)
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=has_unused_weights(config), gradient_as_bucket_view=True
    )  # fmt: skip
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision, deepspeed_plugin=deepspeed,
        kwargs_handlers=[ddp], log_with=list(run.trackers) or None, project_dir=run.folder,
    )  # fmt: skip
    zero.check_processes(accelerator)
    return accelerator


def check_launch(config: Run) -> None:
    """Raises ValueError for a way of sharding that a run, or its checkpoints, cannot take."""
    if zero.is_fsdp_launched() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            "launched with FSDP 1, whose weights and moments our checkpoints do not hold; "
            f"FSDP2 spreads the same: {zero.FSDP2}"
        )
    if zero.is_launched() and has_unused_weights(config):
        raise ValueError(
            "launched with DeepSpeed, which moves weights that a step did not use too, for a run with several kinds of "
            f"sample; FSDP2 leaves them alone: {zero.FSDP2}"
        )


def plan_of(config: Run) -> Iterator[str]:
    """What a run will do and need, before any weights load."""
    if isinstance(config, FinetuneRun):
        return dry_run(config)
    samples = config.run.total_steps * config.run.batch_size
    return iter(
        [f"{config.run.total_steps} steps, {samples:,} samples drawn anew; memory is planned for task 'finetune'"]
    )


def plot_noise_of(config: Run) -> Path:
    """Which timesteps a run trains at, and how much an error counts there, as noise.png in its folder.

    Raises: ValueError for a run without noise.
    """
    if isinstance(config, AutoencoderRun | SegmenterRun):
        raise ValueError(f"a run of task {config.task!r} adds no noise; give one of 'finetune' or 'text_to_image'")
    of = finetuning.noising_for(config) if isinstance(config, FinetuneRun) else noising_of(config.objective)
    positions = objectives.positions((torch.arange(PLOTTED) + 0.5) / PLOTTED, config.objective)
    timesteps = of.timestep(positions)
    path = config.run.folder / "noise.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_noise(
        timesteps.numpy(), of.weight(timesteps).numpy(), path, title=f"{config.task} to {config.run.folder.name}"
    )
    return path


def fill_caches(config: Run) -> None:
    """Encode all pictures and captions of a fine-tuning, and no more.

    Raises: ValueError for a run that caches nothing.
    """
    if not isinstance(config, FinetuneRun):
        raise ValueError(
            f"a run of task {config.task!r} draws its samples anew and caches nothing; leave --cache-only out"
        )
    finetuning.fill(config, start(config))


def average_of(config: Run, sigma_rel: float) -> Path:
    """Export a finished run again, with an average of another length, beside its export.

    Raises: ValueError where the run kept no snapshots, or for a length that no average has.
    """
    run = config.run
    step, weights = reconstruct(run.folder / SNAPSHOTS, sigma_rel)
    accelerator = start(config)
    task = prepare(config, None, accelerator).task
    if strange := sorted(weights.keys() ^ weights_of(task).keys()):
        raise ValueError(f"the snapshots are of another model: {len(strange)} names differ, such as {strange[0]}")
    task.load_state_dict(weights, strict=False)
    task.to(accelerator.device).eval()
    task.place(accelerator.device, torch.float32)
    folder = run.folder / f"export-{sigma_rel:.3f}"
    with torch.no_grad():
        figures = task.export(folder, getattr(torch, run.export_dtype))
    write_card(folder, config, figures, sigma_rel=sigma_rel)
    print(json.dumps({"export": str(folder), "step": step, **figures}), flush=True)
    return folder


def check_time_schedule(config: Run) -> None:
    """Raises ValueError for a learning rate that decays over time without a time, or on processes with own clocks."""
    if config.run.max_minutes is None:
        raise ValueError('optimizer.decay_over = "time" needs run.max_minutes, the time that it decays over')
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError('optimizer.decay_over = "time" takes one process: the clocks of several differ')


def train(config: Run, world: World | None = None, *, resume: str, wants_stop: Callable[[], bool]) -> Outcome:
    """One run from its config to its export."""
    started, run = time.perf_counter(), config.run
    if config.optimizer.decay_over == "time":
        check_time_schedule(config)
    checkpoint = find_checkpoint(run.folder / "checkpoints", resume)
    accelerator = start(config)
    job = prepare(config, world, accelerator)
    trainer = Trainer(job, run, config.optimizer, accelerator)
    trainer.started = started
    if checkpoint is not None:
        trainer.load(checkpoint)
    trainer.journal.begin(trainer.step, config.model_dump(mode="json"))
    if accelerator.is_main_process:
        counted = sum(p.numel() for p in job.task.parameters() if p.requires_grad)
        print(f"{config.task}: {counted:,} trained parameters, from step {trainer.step}", flush=True)
    repeat_steps = 1 if isinstance(config, FinetuneRun) else config.data.repeat_steps
    steps = {"first_step": trainer.step, "total_steps": run.total_steps, "repeat_steps": repeat_steps}
    batches = iter(loader(
        job.batches, **steps,
        workers=config.data.workers, prefetch=config.data.prefetch,
        pin=accelerator.device.type == "cuda",
    ))  # fmt: skip
    outcome = trainer.train(repeat_batches(batches, **steps) if repeat_steps > 1 else batches, wants_stop=wants_stop)
    if outcome is not Outcome.INTERRUPTED:
        figures = trainer.export()
        if accelerator.is_main_process:
            write_card(run.folder / "export", config, figures)
            print(json.dumps({"export": str(run.folder / "export"), **figures}), flush=True)
    accelerator.end_training()
    return outcome
