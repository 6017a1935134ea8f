"""The training loop of all tasks, on one process or many.

The step is the only state besides weights, averages and optimizer moments: data, noise and learning rate are functions
of (seed, step). So a resumed run continues bit for bit, and two processes compute what one would (after the loop of
EDM2, Karras et al. 2024).
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from enum import Enum
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from dianjing.errors import DianjingError
from dianjing.train.config.base import OptimizerConfig, RunConfig
from dianjing.train.data.loader import next_batch
from dianjing.train.data.samples import Batch
from dianjing.train.tasks.base import Task, TrainingSetup
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, check_disk_space, save_checkpoint
from dianjing.train.trainer.ema import make_ema
from dianjing.train.trainer.history import HISTORY_KEY, RunPart, write_history
from dianjing.train.trainer.logging import MetricSums, RunLogger, get_peak_memory_gib
from dianjing.train.trainer.optim import get_learning_rate, make_optimizer
from dianjing.train.trainer.posthoc_ema import PowerFunctionEMA
from dianjing.train.trainer.state_dict import (
    get_full_tensor,
    get_model_state,
    get_optimizer_state,
    load_model_state,
    load_optimizer_state,
)

SNAPSHOT_FOLDER = "snapshots"  # inside the folder of a run
CHECKPOINT_BYTES_PER_PARAMETER = 16  # the parameter, its average and two moments in float32
PROGRESS_METRICS = ("loss", "samples_per_s", "peak_memory_gib")  # next to the progress bar


class Outcome(Enum):
    """The way a run ended."""

    FINISHED = "finished"
    TIME_LIMIT = "time limit"
    INTERRUPTED = "interrupted"


class NonFiniteGradientError(DianjingError):
    """A gradient was not finite; its update was not applied and nothing was saved after it."""


def derive_step_seed(seed: int, step: int) -> int:
    """A seed of 63 bits for a step, hashed from (seed, step)."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Trainer:
    """Trains a task up to the last step, with checkpoints, logs and samples on the way."""

    def __init__(
        self, setup: TrainingSetup, run_config: RunConfig, optimizer_config: OptimizerConfig, accelerator: Accelerator
    ) -> None:
        self.run_config, self.optimizer_config, self.accelerator = run_config, optimizer_config, accelerator
        self.schedule = setup.batches.schedule
        task, device = setup.task, accelerator.device
        self.compute_dtype = run_config.compute_dtype
        # one process cannot sample from sharded weights or export them: it keeps a full copy on the CPU
        self.unsharded_task = deepcopy(task) if accelerator.is_fsdp2 and accelerator.is_main_process else None
        task.to(device)
        task.to_device(device, self.compute_dtype)
        if run_config.compile != "none":
            task.compile_modules(run_config.compile)
        self.task = task
        self.model, self.optimizer = distributed.prepare_model_and_optimizer(
            accelerator, task, make_optimizer(task, optimizer_config), dtype=self.compute_dtype
        )
        self.ema = make_ema(self.model, self.optimizer, optimizer_config)
        self.posthoc_ema = PowerFunctionEMA(task, enabled=optimizer_config.ema_snapshot_every is not None)
        self.generator = torch.Generator(device)
        self.first_non_finite_step = torch.tensor(-1, device=device)
        self.metrics = MetricSums()
        self.num_samples = 0
        self.step = 0
        self.history: list[RunPart] = []
        self.start_s, self.previous_s = time.perf_counter(), 0.0  # of this process; seconds of those it continues
        self.logger = RunLogger(run_config.folder, accelerator, total_steps=run_config.total_steps)

    def load(self, checkpoint: Checkpoint) -> None:
        """Load weights, averages and optimizer moments of a checkpoint, and continue from its step."""
        load_model_state(self.task, checkpoint, "model")
        load_optimizer_state(self.task, self.optimizer, checkpoint.load_tensors("optimizer"))
        with self.ema.average_parameters():
            load_model_state(self.task, checkpoint, "ema")
        self.posthoc_ema.load(checkpoint)
        self.step = checkpoint.step
        self.previous_s = float(checkpoint.load_state().get("elapsed_s", 0.0))

    def save(self) -> None:
        """Save a checkpoint of this step; all processes take part, the main one writes."""
        self._raise_if_non_finite()
        groups = {"model": get_model_state(self.task), "optimizer": get_optimizer_state(self.task, self.optimizer)}
        with self.ema.average_parameters():
            groups["ema"] = get_model_state(self.task)
        groups |= self.posthoc_ema.get_tensors()
        if self.accelerator.is_main_process:
            state = {HISTORY_KEY: write_history(self.history), "elapsed_s": self._get_elapsed_s()}
            folder = self.run_config.folder / "checkpoints"
            save_checkpoint(folder, self.step, groups, state, max_checkpoints=self.run_config.max_checkpoints)
        self.accelerator.wait_for_everyone()

    def train(
        self, batches: Iterator[Batch], *, should_stop: Callable[[], bool], on_start: Callable[[], None] | None = None
    ) -> Outcome:
        """Train until total_steps, the end of max_minutes, or `should_stop()`; `on_start` is called before a step."""
        run = self.run_config
        if self.accelerator.is_main_process:
            num_trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            check_disk_space(run.folder / "checkpoints", CHECKPOINT_BYTES_PER_PARAMETER * num_trainable)
        bar = tqdm(total=run.total_steps, initial=self.step, unit="step", disable=not self.accelerator.is_main_process)
        if self.step == 0:
            self.log_samples()
        if on_start is not None:
            on_start()
        outcome, log_start, wait_s = Outcome.FINISHED, time.perf_counter(), 0.0
        while self.step < run.total_steps and outcome is Outcome.FINISHED:
            wait_s += self.train_step(batches)
            is_last, is_logged = self.step == run.total_steps, self.step % run.log_every == 0
            if is_logged or is_last:
                metrics = self._log_metrics(log_start, wait_s)
                bar.update(self.step - bar.n)
                bar.set_postfix({name: f"{metrics[name]:.4g}" for name in PROGRESS_METRICS})
                log_start, wait_s = time.perf_counter(), 0.0
            if self.step % run.sample_every == 0 or is_last:
                self.log_samples()
            interval = self.optimizer_config.ema_snapshot_every
            if interval is not None and (self.step % interval == 0 or is_last):
                self.posthoc_ema.save_snapshot(
                    run.folder / SNAPSHOT_FOLDER, self.step, is_writer=self.accelerator.is_main_process
                )
            # several processes must agree to stop, which synchronizes them: they do so when they log
            if is_logged or self.accelerator.num_processes == 1:
                outcome = self._agree_on_outcome(is_interrupted=should_stop(), is_over_time=self._is_over_time())
            if is_last or outcome is not Outcome.FINISHED or self.step % run.checkpoint_every == 0:
                self.save()
        bar.close()
        self.logger.plot()
        return outcome

    def log_samples(self) -> None:
        """Write a sample grid of the averaged weights, and log their validation metrics."""
        with self._ema_task() as task, self._autocast():
            if task is not None:
                self.logger.save_sample_grid(self.step, task.sample_grid())
                if metrics := task.validate():
                    self.logger.log(self.step, metrics)
        self.accelerator.wait_for_everyone()

    def export(self) -> dict[str, Any]:
        """Write the averaged weights as diffusers / transformers folders to export/; returns the task's metrics."""
        metrics: dict[str, Any] = {}
        with self._ema_task() as task:
            if task is not None and self.accelerator.is_main_process:
                metrics = task.export(self.run_config.folder / "export", getattr(torch, self.run_config.export_dtype))
        self.accelerator.wait_for_everyone()
        return metrics

    @contextmanager
    def _ema_task(self) -> Iterator[Task | None]:
        """A context with the task that holds the averaged weights, in evaluation mode.

        If weights are sharded, it is the full copy on the main process, and None on others.
        """
        device, task = self.accelerator.device, self.task
        with (
            self.ema.average_parameters(),
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # other shapes would be compiled anew
        ):
            if self.accelerator.is_fsdp2:
                weights = get_model_state(self.task)
                if self.unsharded_task is None:
                    yield None
                    return
                self.unsharded_task.load_state_dict(weights, strict=False)
                task = self.unsharded_task.to(device)
                task.to_device(device, self.compute_dtype)
            training = task.training
            yield task.eval()
            task.train(training)
            if self.unsharded_task is not None:
                self.unsharded_task.cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.accelerator.device.type, self.compute_dtype, enabled=self.compute_dtype is not torch.float32
        )

    def train_step(self, batches: Iterator[Batch]) -> float:
        """Make one optimizer step on the next micro-batches, without synchronizing with the device.

        Returns the seconds spent waiting for data.
        """
        learning_rate = get_learning_rate(
            self.optimizer_config, self.step, self.run_config.total_steps, elapsed_fraction=self._get_elapsed_fraction()
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.generator.manual_seed(derive_step_seed(self.run_config.seed, self.step))
        bucket = self.schedule.bucket_at(self.step)
        noise = self.task.sample_noise(bucket, self.generator)
        wait_s, accumulation_steps = 0.0, bucket.shards.accumulation_steps
        for micro_step in range(accumulation_steps):
            wait_start = time.perf_counter()
            batch = next_batch(batches)
            wait_s += time.perf_counter() - wait_start
            batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
            rows = bucket.shards.get_rows(micro_step)
            is_last = micro_step == accumulation_steps - 1
            self.accelerator.sync_gradients = is_last  # with DeepSpeed, backward of the last one makes the step
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                metrics = self.model(batch, {k: v[rows] for k, v in noise.items()})
                self.accelerator.backward(metrics["loss"] / accumulation_steps)
            self.metrics.add({k: v.detach() for k, v in metrics.items()}, weight=1 / accumulation_steps)
            if len(self.schedule.bucket_kinds) > 1:  # the loss of each kind as well
                kind_loss = {f"loss_{bucket.kind}": metrics["loss"].detach()}
                self.metrics.add(kind_loss, weight=1 / accumulation_steps)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimizer_config.max_grad_norm)
        norm = get_full_tensor(torch.as_tensor(norm, device=self.accelerator.device))  # DeepSpeed returns a number
        is_bad = ~torch.isfinite(norm)
        self.first_non_finite_step = torch.where(
            is_bad & (self.first_non_finite_step < 0), self.step, self.first_non_finite_step
        )
        if self.optimizer_config.kind == "adamw":
            self.optimizer.optimizer.found_inf = is_bad.float()  # the fused kernel then skips the step
            self.optimizer.step()
        elif not is_bad:  # the other kinds cannot skip a step by themselves: this waits for the device
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step)
        self.posthoc_ema.update(self.step)
        self.metrics.add({"grad_norm": norm})
        self.num_samples += bucket.shards.global_batch_size
        self.step += 1
        return wait_s

    def _get_elapsed_s(self) -> float:
        return self.previous_s + time.perf_counter() - self.start_s

    def _get_elapsed_fraction(self) -> float | None:
        """The fraction of max_minutes that is over, with the processes that this one continues."""
        if self.run_config.max_minutes is None or self.optimizer_config.lr_decay_over == "steps":
            return None
        return self._get_elapsed_s() / 60 / self.run_config.max_minutes

    def _is_over_time(self) -> bool:
        """True if max_minutes are over: of this process, or of the whole run if the learning rate decays over them."""
        if self.run_config.max_minutes is None:
            return False
        ignored_s = self.previous_s if self.optimizer_config.lr_decay_over == "steps" else 0.0
        return (self._get_elapsed_s() - ignored_s) / 60 >= self.run_config.max_minutes

    def _log_metrics(self, start_s: float, wait_s: float) -> dict[str, float]:
        """Log the means since the last log over all processes."""
        self._raise_if_non_finite()
        seconds = time.perf_counter() - start_s
        metrics = self.metrics.pop_means(self.accelerator)
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        metrics["samples_per_s"] = self.num_samples / seconds
        metrics["data_wait_fraction"] = wait_s / seconds
        metrics["peak_memory_gib"] = get_peak_memory_gib(self.accelerator.device)
        self.logger.log(self.step, metrics)
        self.num_samples = 0
        return metrics

    def _raise_if_non_finite(self) -> None:
        step = int(self.first_non_finite_step)
        if step >= 0:
            samples = self.schedule.describe_step(step)
            raise NonFiniteGradientError("gradient_not_finite", step=step, samples=samples)

    def _agree_on_outcome(self, *, is_interrupted: bool, is_over_time: bool) -> Outcome:
        """The outcome so far, the same on all processes."""
        flags = torch.tensor([is_interrupted, is_over_time], dtype=torch.float32)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags.to(self.accelerator.device), reduction="sum")
        is_interrupted, is_over_time = (flags > 0).tolist()
        if is_interrupted:
            return Outcome.INTERRUPTED
        return Outcome.TIME_LIMIT if is_over_time else Outcome.FINISHED
