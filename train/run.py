"""A run from its config to its export, on one process or many."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from dianjing.errors import DianjingError, Lines, Message, get_language
from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.data.loader import echo_batches, make_loader, start_loader
from dianjing.train.data.samples import Batch, SampleSource
from dianjing.train.diffusion import objectives
from dianjing.train.model_card import write_model_card
from dianjing.train.tasks.base import TrainingSetup
from dianjing.train.tasks.registry import get_task_definition
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, find_newest_checkpoint, read_checkpoint
from dianjing.train.trainer.history import (
    RunPart,
    SettingChange,
    check_resumable,
    describe_sample_changes,
    extend_history,
    flatten_settings,
    read_history,
    save_samples,
)
from dianjing.train.trainer.logging import check_trackers
from dianjing.train.trainer.loop import SNAPSHOT_FOLDER, Outcome, Trainer
from dianjing.train.trainer.optim import check_optimizer
from dianjing.train.trainer.plots import plot_timestep_distribution
from dianjing.train.trainer.posthoc_ema import reconstruct_ema
from dianjing.train.trainer.run_lock import lock_run_folder
from dianjing.train.trainer.state_dict import get_model_state

NUM_PLOTTED_TIMESTEPS = 20_000


def find_checkpoint(folder: Path, resume: str) -> Checkpoint | None:
    """The checkpoint that `resume` ("auto", "none" or a path) selects; damaged ones are reported and skipped.

    Raises: DianjingError for a damaged checkpoint at a given path, and for "none" if there are checkpoints.
    """
    if resume not in ("auto", "none"):
        return read_checkpoint(Path(resume))
    checkpoint, skipped = find_newest_checkpoint(folder)
    for reason in skipped:
        print(Message("checkpoint_skipped", reason=reason).render(get_language()), file=sys.stderr)
    if resume == "none" and (checkpoint or skipped):
        raise DianjingError("checkpoints_exist", folder=folder)
    return checkpoint


def build_training(config: AnyRunConfig, source: SampleSource | None, accelerator: Accelerator) -> TrainingSetup:
    """The task and the batches of a run; `source` replaces the sticker world."""
    return get_task_definition(config).build(config, source, accelerator)


def setup_accelerator(config: AnyRunConfig) -> Accelerator:
    """Configure torch and accelerate for a run, and create its folder.

    Raises: DianjingError for missing libraries, and for a launch that the run does not support.
    """
    run = config.run
    check_trackers(run.trackers)
    check_optimizer(config.optimizer)
    torch.set_float32_matmul_precision(run.matmul_precision)
    torch.backends.cudnn.allow_tf32 = run.matmul_precision != "highest"
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # a quarter of the autoencoder's time on a CPU
    check_launch(config)
    deepspeed = distributed.make_deepspeed_plugin(config.optimizer.max_grad_norm)
    run.folder.mkdir(parents=True, exist_ok=True)
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=config.data.has_unused_weights, gradient_as_bucket_view=True
    )
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        deepspeed_plugin=deepspeed,
        kwargs_handlers=[ddp],
        log_with=list(run.trackers) or None,
        project_dir=run.folder,
    )
    distributed.check_processes(accelerator)
    return accelerator


def check_launch(config: AnyRunConfig) -> None:
    """Check how this process was launched. Raises: DianjingError for sharding that a run, or its checkpoints, lack."""
    if distributed.is_fsdp_launched() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise DianjingError("fsdp1_unsupported", command=distributed.FSDP2_COMMAND)
    if distributed.is_deepspeed_launched() and config.data.has_unused_weights:
        raise DianjingError("deepspeed_unused_weights", command=distributed.FSDP2_COMMAND)


def describe_run(config: AnyRunConfig) -> Iterator[Message]:
    """Lines that say what a run will do and need, before any weights are loaded.

    Raises: DianjingError for data or a model that cannot be used.
    """
    return get_task_definition(config).describe(config)


def plot_run_timesteps(config: AnyRunConfig) -> Path:
    """Plot the distribution and the loss weights of a run's timesteps to noise.png in its folder.

    Raises: DianjingError for a run without noise.
    """
    noise = get_task_definition(config).make_noise_process(config)
    if noise is None:
        raise DianjingError("task_without_noise", task=config.task, tasks=["finetune", "text_to_image"])
    noise_process, timestep_sampling = noise
    uniform = (torch.arange(NUM_PLOTTED_TIMESTEPS) + 0.5) / NUM_PLOTTED_TIMESTEPS
    timesteps = noise_process.to_timestep(objectives.sample_time(uniform, timestep_sampling))
    path = config.run.folder / "noise.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = noise_process.get_loss_weight(timesteps)
    title = f"{config.task}: {config.run.folder.name}"
    plot_timestep_distribution(timesteps.numpy(), weights.numpy(), path, title=title)
    return path


def fill_caches(config: AnyRunConfig) -> None:
    """Encode all samples of a run ahead of training. Raises: DianjingError for a run that caches nothing."""
    definition = get_task_definition(config)
    if not definition.has_cache:
        raise DianjingError("task_has_no_cache", task=config.task)
    definition.fill_caches(config, setup_accelerator(config))


def export_ema(config: AnyRunConfig, sigma_rel: float) -> Path:
    """Export a finished run with a moving average of another length, next to its export; returns the folder.

    Raises: DianjingError for a run without snapshots, and for a length that no average has.
    """
    run = config.run
    snapshots = run.folder / SNAPSHOT_FOLDER
    step, weights = reconstruct_ema(snapshots, sigma_rel)
    accelerator = setup_accelerator(config)
    task = build_training(config, None, accelerator).task
    if different := sorted(weights.keys() ^ get_model_state(task).keys()):
        raise DianjingError("snapshots_of_another_model", folder=snapshots, count=len(different), name=different[0])
    task.load_state_dict(weights, strict=False)
    task.to(accelerator.device).eval()
    task.to_device(accelerator.device, torch.float32)
    folder = run.folder / f"export-{sigma_rel:.3f}"
    with torch.no_grad():
        metrics = task.export(folder, getattr(torch, run.export_dtype))
    newest, _ = find_newest_checkpoint(run.folder / "checkpoints")
    write_model_card(folder, config, metrics, history=read_history(newest), sigma_rel=sigma_rel)
    print(json.dumps({"export": str(folder), "step": step, **metrics}), flush=True)
    return folder


def check_time_schedule(config: AnyRunConfig) -> None:
    """Check a run whose learning rate decays over time.

    Raises: DianjingError if it has no time limit, or several processes, whose clocks differ.
    """
    if config.run.max_minutes is None:
        raise DianjingError("time_schedule_without_limit")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DianjingError("time_schedule_on_several_processes")


def train_model(
    config: AnyRunConfig,
    source: SampleSource | None = None,
    *,
    resume: str,
    should_stop: Callable[[], bool],
    on_start: Callable[[], None] | None = None,
) -> Outcome:
    """Train a run from its config, or from a checkpoint, to its export.

    `resume` is "auto", "none" or a checkpoint's path; `source` replaces the sticker world of tasks that generate their
    samples; `on_start` is called before the first step, and `should_stop` is asked after every one.
    Raises: DianjingError for data, models, checkpoints or a launch that cannot be used, for settings that do not fit
    the checkpoint, and for a folder in which another process trains.
    """
    if config.optimizer.lr_decay_over == "time":
        check_time_schedule(config)
    with lock_run_folder(config.run.folder) if is_main_launch() else nullcontext():
        return _train_in_locked_folder(config, source, resume=resume, should_stop=should_stop, on_start=on_start)


def is_main_launch() -> bool:
    """True in the process of rank 0, also before the processes have found each other."""
    return os.environ.get("RANK", "0") == "0"


def _train_in_locked_folder(
    config: AnyRunConfig,
    source: SampleSource | None,
    *,
    resume: str,
    should_stop: Callable[[], bool],
    on_start: Callable[[], None] | None,
) -> Outcome:
    start_s, run = time.perf_counter(), config.run
    checkpoint = find_checkpoint(run.folder / "checkpoints", resume)
    step, history = (0 if checkpoint is None else checkpoint.step), read_history(checkpoint)
    settings = flatten_settings(config.model_dump(mode="json"))
    changes = check_resumable(history, settings, step)
    accelerator = setup_accelerator(config)
    setup = build_training(config, source, accelerator)
    trainer = Trainer(setup, run, config.optimizer, accelerator)
    trainer.start_s = start_s
    if checkpoint is not None:
        trainer.load(checkpoint)
    part = RunPart(first_step=step, settings=settings, samples=_save_samples(setup, run.folder, accelerator))
    trainer.history = extend_history(history, part)
    trainer.logger.start(step, config.model_dump(mode="json"))
    if accelerator.is_main_process:
        for line in _describe_changes(run.folder, history, part, changes):
            print(line.render(get_language()), flush=True)
        num_trainable = sum(p.numel() for p in setup.task.parameters() if p.requires_grad)
        start = Message("training_starts", task=config.task, num_trainable=f"{num_trainable:,}", step=step)
        print(start.render(get_language()), flush=True)
    outcome = trainer.train(_load_batches(config, setup, trainer), should_stop=should_stop, on_start=on_start)
    if outcome is not Outcome.INTERRUPTED:
        metrics = trainer.export()
        if accelerator.is_main_process:
            write_model_card(run.folder / "export", config, metrics, history=trainer.history)
            print(json.dumps({"export": str(run.folder / "export"), **metrics}), flush=True)
    accelerator.end_training()
    return outcome


def _save_samples(setup: TrainingSetup, folder: Path, accelerator: Accelerator) -> str | None:
    digest = save_samples(folder, setup.samples) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    return digest


def _describe_changes(
    folder: Path, history: Sequence[RunPart], part: RunPart, changes: Sequence[SettingChange]
) -> Iterator[Message]:
    """List what differs from the part of the run before, if there is one."""
    if changes:
        yield Message("settings_changed", step=part.first_step, changes=Lines(each.to_message() for each in changes))
    if history and (samples := describe_sample_changes(folder, history[-1].samples, part.samples)) is not None:
        yield samples


def _load_batches(config: AnyRunConfig, setup: TrainingSetup, trainer: Trainer) -> Iterator[Batch]:
    """The micro-batches from the trainer's step on."""
    echo_factor = config.data.echo_factor
    steps = {"first_step": trainer.step, "total_steps": config.run.total_steps, "echo_factor": echo_factor}
    loader = make_loader(
        setup.batches,
        **steps,
        num_workers=config.data.num_workers,
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=trainer.accelerator.device.type == "cuda",
    )
    batches = start_loader(loader)
    return batches if echo_factor == 1 else echo_batches(batches, **steps)
