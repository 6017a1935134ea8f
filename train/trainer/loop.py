"""One training loop for every task, on one process or many.

The training position is the only state besides weights and optimizer moments: data, noise and
learning rate are functions of (seed, step), so a resumed run continues bit for bit and two
processes compute what one would (after Karras et al.'s edm2 loop).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from enum import Enum
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.train.config.base import OptimizerConfig, RunConfig
from dianjing.train.data.loader import next_batch
from dianjing.train.data.samples import Batch
from dianjing.train.tasks.base import Task, TrainingSetup
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, check_disk_space, save_checkpoint
from dianjing.train.trainer.ema import make_ema
from dianjing.train.trainer.logging import RunLogger, get_peak_memory_gib
from dianjing.train.trainer.optim import get_learning_rate, make_optimizer
from dianjing.train.trainer.posthoc_ema import PowerFunctionEMA
from dianjing.train.trainer.state_dict import (
    get_full_tensor,
    get_model_state,
    get_optimizer_state,
    load_model_state,
    load_optimizer_state,
)

SNAPSHOT_FOLDER = "snapshots"  # folder of a run's
CHECKPOINT_BYTES_PER_PARAMETER = 16  # a parameter: itself, its average, two moments
PROGRESS_METRICS = ("loss", "samples_per_s", "peak_memory_gib")  # beside the progress bar


class Outcome(Enum):
    FINISHED = "finished"
    TIME_LIMIT = "time limit"
    INTERRUPTED = "interrupted"


class NonFiniteGradientError(RuntimeError):
    """A gradient was not finite; no weights were changed by it and nothing was saved after it."""


def derive_step_seed(seed: int, step: int) -> int:
    """63 well-mixed bits of (seed, step)."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Trainer:
    """Drives a task from a step to the last one, saving and showing on the way."""

    def __init__(
        self, setup: TrainingSetup, run_config: RunConfig, optimizer_config: OptimizerConfig, accelerator: Accelerator
    ) -> None:
        self.run_config, self.optimizer_config, self.accelerator, self.schedule = (
            run_config,
            optimizer_config,
            accelerator,
            setup.batches.schedule,
        )
        task = setup.task
        device = accelerator.device
        self.compute_dtype = torch.bfloat16 if run_config.mixed_precision == "bf16" else torch.float32
        # sharded weights cannot be drawn with or exported by one process: it keeps a whole copy, beside the device
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
        self.metric_sums: dict[str, tuple[Tensor, float]] = {}  # since the last log: sum and weight
        self.num_samples = 0
        self.step = 0
        self.logger = RunLogger(run_config.folder, accelerator)

    def load(self, checkpoint: Checkpoint) -> None:
        """Weights, averages and optimizer moments of a checkpoint; the next step follows from it."""
        load_model_state(self.task, checkpoint, "model")
        load_optimizer_state(self.task, self.optimizer, checkpoint.load_tensors("optimizer"))
        with self.ema.average_parameters():
            load_model_state(self.task, checkpoint, "ema")
        self.posthoc_ema.load(checkpoint)
        self.step = checkpoint.step

    def save(self) -> None:
        """A checkpoint of this step; every process takes part, the main one writes."""
        self._raise_if_non_finite()
        groups = {"model": get_model_state(self.task), "optimizer": get_optimizer_state(self.task, self.optimizer)}
        with self.ema.average_parameters():
            groups["ema"] = get_model_state(self.task)
        groups |= self.posthoc_ema.get_tensors()
        if self.accelerator.is_main_process:
            state = {"run": json.loads(self.run_config.model_dump_json())}
            folder = self.run_config.folder / "checkpoints"
            save_checkpoint(folder, self.step, groups, state, max_checkpoints=self.run_config.max_checkpoints)
        self.accelerator.wait_for_everyone()

    def train(self, batches: Iterator[Batch], *, should_stop: Callable[[], bool]) -> Outcome:
        """Run to total_steps, to the end of max_minutes, or until wants_stop()."""
        run, started = self.run_config, time.perf_counter()
        if self.accelerator.is_main_process:
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            check_disk_space(run.folder / "checkpoints", CHECKPOINT_BYTES_PER_PARAMETER * trained)
        bar = tqdm(total=run.total_steps, initial=self.step, unit="step", disable=not self.accelerator.is_main_process)
        if self.step == 0:
            self.log_samples()
        outcome, clock, waited = Outcome.FINISHED, time.perf_counter(), 0.0
        while self.step < run.total_steps and outcome is Outcome.FINISHED:
            waited += self._train_step(batches)
            if (logs := self.step % run.log_every == 0) or self.step == run.total_steps:
                figures = self._log_metrics(clock, waited)
                bar.update(self.step - bar.n)
                bar.set_postfix({name: f"{figures[name]:.4g}" for name in PROGRESS_METRICS})
                clock, waited = time.perf_counter(), 0.0
            is_last = self.step == run.total_steps
            if self.step % run.sample_every == 0 or is_last:
                self.log_samples()
            if (every := self.optimizer_config.ema_snapshot_every) and (self.step % every == 0 or is_last):
                self.posthoc_ema.save_snapshot(
                    run.folder / SNAPSHOT_FOLDER, self.step, is_writer=self.accelerator.is_main_process
                )
            # many processes must agree to stop, which costs a sync: they do so when they log
            if logs or self.accelerator.num_processes == 1:
                minutes = (time.perf_counter() - started) / 60
                over = run.max_minutes is not None and minutes >= run.max_minutes
                outcome = self._agree_on_outcome(interrupted=should_stop(), is_over_time=over)
            ended = is_last or outcome is not Outcome.FINISHED
            if ended or self.step % run.checkpoint_every == 0:
                self.save()
        bar.close()
        self.logger.plot()
        return outcome

    def log_samples(self) -> None:
        """The sample grid of the averaged weights, and how well they do."""
        with self._ema_task() as task, self._autocast():
            if task is not None:
                self.logger.save_sample_grid(self.step, task.sample_grid())
                if figures := task.validate():
                    self.logger.log(self.step, figures)
        self.accelerator.wait_for_everyone()

    def export(self) -> dict[str, Any]:
        """The averaged weights as diffusers / transformers folders under export/."""
        figures: dict[str, Any] = {}
        with self._ema_task() as task:
            if task is not None and self.accelerator.is_main_process:
                figures = task.export(self.run_config.folder / "export", getattr(torch, self.run_config.export_dtype))
        self.accelerator.wait_for_everyone()
        return figures

    @contextmanager
    def _ema_task(self) -> Iterator[Task | None]:
        """The task with the averaged weights, not to be trained; of sharded ones whole, on the main process alone."""
        device, task = self.accelerator.device, self.task
        with (
            self.ema.average_parameters(),
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # other shapes; no second compilation
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

    def _train_step(self, batches: Iterator[Batch]) -> float:
        """One optimizer step; nothing here waits for the device. Returns seconds without data."""
        rate = get_learning_rate(self.optimizer_config, self.step, self.run_config.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.generator.manual_seed(derive_step_seed(self.run_config.seed, self.step))
        bucket = self.schedule.bucket_at(self.step)
        noise = self.task.sample_noise(bucket, self.generator)
        waited, accumulation = 0.0, bucket.shards.accumulation_steps
        for micro in range(accumulation):
            asked = time.perf_counter()
            batch = next_batch(batches)
            waited += time.perf_counter() - asked
            batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
            rows = bucket.shards.get_rows(micro)
            last = micro == accumulation - 1
            self.accelerator.sync_gradients = last  # with DeepSpeed the last one makes the step
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                metrics = self.model(batch, {k: v[rows] for k, v in noise.items()})
                self.accelerator.backward(metrics["loss"] / accumulation)
            self._accumulate_metrics({k: v.detach() for k, v in metrics.items()}, weight=1 / accumulation)
            if len(self.schedule.bucket_kinds) > 1:  # of each kind apart, too
                self._accumulate_metrics({f"loss_{bucket.kind}": metrics["loss"].detach()}, weight=1 / accumulation)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimizer_config.max_grad_norm)
        norm = get_full_tensor(torch.as_tensor(norm, device=self.accelerator.device))  # of DeepSpeed a number
        bad = ~torch.isfinite(norm)
        self.first_non_finite_step = torch.where(
            bad & (self.first_non_finite_step < 0), self.step, self.first_non_finite_step
        )
        if self.optimizer_config.kind == "adamw":
            self.optimizer.optimizer.found_inf = bad.float()  # the fused kernel then leaves all as it is
            self.optimizer.step()
        elif not bad:  # the others cannot tell by themselves: this waits for the device
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step)
        self.posthoc_ema.update(self.step)
        self._accumulate_metrics({"grad_norm": norm})
        self.num_samples += bucket.shards.global_batch_size
        self.step += 1
        return waited

    def _accumulate_metrics(self, metrics: dict[str, Tensor], *, weight: float = 1.0) -> None:
        for name, value in metrics.items():
            total, weights = self.metric_sums.get(name, (torch.zeros_like(value), 0.0))
            self.metric_sums[name] = (total + weight * value, weights + weight)

    def _log_metrics(self, start_s: float, wait_s: float) -> dict[str, float]:
        """Means since the last log, over all processes, as one line of metrics.jsonl."""
        self._raise_if_non_finite()
        values = torch.stack([(total / weights).float() for total, weights in self.metric_sums.values()])
        values = self.accelerator.reduce(values, reduction="mean")
        seconds = time.perf_counter() - start_s
        figures = dict(zip(self.metric_sums, values.tolist(), strict=True))
        figures["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        figures["samples_per_s"] = self.num_samples / seconds
        figures["data_wait_fraction"] = wait_s / seconds
        figures["peak_memory_gib"] = get_peak_memory_gib(self.accelerator.device)
        self.logger.log(self.step, figures)
        self.metric_sums, self.num_samples = {}, 0
        return figures

    def _raise_if_non_finite(self) -> None:
        step = int(self.first_non_finite_step)
        if step >= 0:
            raise NonFiniteGradientError(
                f"the gradient of step {step} is not finite ({self.schedule.describe_step(step)}); its update was not applied "
                "and nothing was saved since: resume with a lower learning rate or look at these samples"
            )

    def _agree_on_outcome(self, *, interrupted: bool, is_over_time: bool) -> Outcome:
        flags = torch.tensor([interrupted, is_over_time], dtype=torch.float32)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags.to(self.accelerator.device), reduction="sum")
        interrupted, is_over_time = (flags > 0).tolist()
        if interrupted:
            return Outcome.INTERRUPTED
        return Outcome.TIME_LIMIT if is_over_time else Outcome.FINISHED
