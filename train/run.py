"""A run from its config to its export, on one process or many."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.train.data import preparation
from dianjing.train.data.loader import make_loader
from dianjing.train.data.samples import SampleSource
from dianjing.train.diffusion import objectives
from dianjing.train.diffusion.noise_process import make_vp_diffusion
from dianjing.train.memory_estimate import describe_finetune_run
from dianjing.train.model_card import write_model_card
from dianjing.train.tasks import finetune_build, registry
from dianjing.train.tasks.base import TrainingSetup
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, find_newest_checkpoint, read_checkpoint
from dianjing.train.trainer.logging import check_trackers
from dianjing.train.trainer.loop import SNAPSHOT_FOLDER, Outcome, Trainer
from dianjing.train.trainer.optim import check_optimizer
from dianjing.train.trainer.plots import plot_timestep_distribution
from dianjing.train.trainer.posthoc_ema import reconstruct_ema
from dianjing.train.trainer.state_dict import get_model_state

NUM_PLOTTED_TIMESTEPS = 20_000  # timesteps


def find_checkpoint(folder: Path, resume: str) -> Checkpoint | None:
    """What `--resume` asks for; names every checkpoint that had to be skipped."""
    if resume not in ("auto", "none"):
        return read_checkpoint(Path(resume))
    found, skipped = find_newest_checkpoint(folder)
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if resume == "none" and (found or skipped):
        raise ValueError(
            f"{folder} holds checkpoints; --resume auto goes on from them, or --set run.folder=... starts elsewhere"
        )
    return found


def has_unused_parameters(config: AnyRunConfig) -> bool:
    """Of several kinds of sample, none passes through all the weights."""
    return bool(config.data.num_frames) if isinstance(config, FinetuneRunConfig) else len(config.data.buckets) > 1


def build_training(config: AnyRunConfig, source: SampleSource | None, accelerator: Accelerator) -> TrainingSetup:
    """What is trained, and on what; the sticker world where no other is given."""
    if isinstance(config, FinetuneRunConfig):
        return finetune_build.build_finetune_training(config, accelerator)
    return registry.build_scratch_training(config, source or registry.make_sticker_source(config), accelerator)


def setup_accelerator(config: AnyRunConfig) -> Accelerator:
    """Set up this process, and make the run's folder."""
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
        find_unused_parameters=has_unused_parameters(config), gradient_as_bucket_view=True
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
    """Raises ValueError for a way of sharding that a run, or its checkpoints, cannot take."""
    if distributed.is_fsdp_launched() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            "launched with FSDP 1, whose weights and moments our checkpoints do not hold; "
            f"FSDP2 spreads the same: {distributed.FSDP2_COMMAND}"
        )
    if distributed.is_deepspeed_launched() and has_unused_parameters(config):
        raise ValueError(
            "launched with DeepSpeed, which moves weights that a step did not use too, for a run with several kinds of "
            f"sample; FSDP2 leaves them alone: {distributed.FSDP2_COMMAND}"
        )


def describe_run(config: AnyRunConfig) -> Iterator[str]:
    """What a run will do and need, before any weights load."""
    if isinstance(config, FinetuneRunConfig):
        return describe_finetune_run(config)
    samples = config.run.total_steps * config.run.batch_size
    return iter(
        [f"{config.run.total_steps} steps, {samples:,} samples drawn anew; memory is planned for task 'finetune'"]
    )


def plot_run_timesteps(config: AnyRunConfig) -> Path:
    """Which timesteps a run trains at, and how much an error counts there, as noise.png in its folder.

    Raises: ValueError for a run without noise.
    """
    if isinstance(config, AutoencoderRunConfig | SegmenterRunConfig):
        raise ValueError(f"a run of task {config.task!r} adds no noise; give one of 'finetune' or 'text_to_image'")
    of = (
        finetune_build.load_noise_process(config)
        if isinstance(config, FinetuneRunConfig)
        else make_vp_diffusion(config.objective)
    )
    positions = objectives.sample_time(
        (torch.arange(NUM_PLOTTED_TIMESTEPS) + 0.5) / NUM_PLOTTED_TIMESTEPS, config.objective
    )
    timesteps = of.to_timestep(positions)
    path = config.run.folder / "noise.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_timestep_distribution(
        timesteps.numpy(),
        of.get_loss_weight(timesteps).numpy(),
        path,
        title=f"{config.task} to {config.run.folder.name}",
    )
    return path


def fill_caches(config: AnyRunConfig) -> None:
    """Encode all pictures and captions of a fine-tuning, and no more.

    Raises: ValueError for a run that caches nothing.
    """
    if not isinstance(config, FinetuneRunConfig):
        raise ValueError(
            f"a run of task {config.task!r} draws its samples anew and caches nothing; leave --cache-only out"
        )
    preparation.index_and_encode(config, setup_accelerator(config))


def export_ema(config: AnyRunConfig, sigma_rel: float) -> Path:
    """Export a finished run again, with an average of another length, beside its export.

    Raises: ValueError where the run kept no snapshots, or for a length that no average has.
    """
    run = config.run
    step, weights = reconstruct_ema(run.folder / SNAPSHOT_FOLDER, sigma_rel)
    accelerator = setup_accelerator(config)
    task = build_training(config, None, accelerator).task
    if strange := sorted(weights.keys() ^ get_model_state(task).keys()):
        raise ValueError(f"the snapshots are of another model: {len(strange)} names differ, such as {strange[0]}")
    task.load_state_dict(weights, strict=False)
    task.to(accelerator.device).eval()
    task.to_device(accelerator.device, torch.float32)
    folder = run.folder / f"export-{sigma_rel:.3f}"
    with torch.no_grad():
        figures = task.export(folder, getattr(torch, run.export_dtype))
    write_model_card(folder, config, figures, sigma_rel=sigma_rel)
    print(json.dumps({"export": str(folder), "step": step, **figures}), flush=True)
    return folder


def train_model(
    config: AnyRunConfig, source: SampleSource | None = None, *, resume: str, should_stop: Callable[[], bool]
) -> Outcome:
    """One run from its config to its export."""
    run = config.run
    checkpoint = find_checkpoint(run.folder / "checkpoints", resume)
    accelerator = setup_accelerator(config)
    job = build_training(config, source, accelerator)
    trainer = Trainer(job, run, config.optimizer, accelerator)
    if checkpoint is not None:
        trainer.load(checkpoint)
    trainer.logger.start(trainer.step, config.model_dump(mode="json"))
    if accelerator.is_main_process:
        counted = sum(p.numel() for p in job.task.parameters() if p.requires_grad)
        print(f"{config.task}: {counted:,} trained parameters, from step {trainer.step}", flush=True)
    batches = make_loader(
        job.batches,
        first_step=trainer.step,
        total_steps=run.total_steps,
        num_workers=config.data.num_workers,
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=accelerator.device.type == "cuda",
    )
    outcome = trainer.train(iter(batches), should_stop=should_stop)
    if outcome is not Outcome.INTERRUPTED:
        figures = trainer.export()
        if accelerator.is_main_process:
            write_model_card(run.folder / "export", config, figures)
            print(json.dumps({"export": str(run.folder / "export"), **figures}), flush=True)
    accelerator.end_training()
    return outcome
