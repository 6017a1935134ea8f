"""One training loop for every task, on one process or many.

The training position is the only state besides weights and optimizer moments: data, noise and
learning rate are functions of (seed, step), so a resumed run continues bit for bit and two
processes compute what one would (after Karras et al.'s edm2 loop).
"""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from dianjing.train import zero
from dianjing.train.checkpoints import Checkpoint, check_space, save_checkpoint
from dianjing.train.data import Batch, Bucket, PlannedBatches, next_batch
from dianjing.train.optimizing import learning_rate, make_average, make_optimizer
from dianjing.train.posthoc import PowerAverages
from dianjing.train.sections import OptimizerSection, RunSection
from dianjing.train.states import moments_of, take_moments, take_weights, weights_of, whole
from dianjing.train.watching import Journal, peak_memory_gib

SNAPSHOTS = "snapshots"  # folder of a run's
CHECKPOINT_BYTES = 16  # a parameter: itself, its average, two moments
SHOWN = ("loss", "samples_per_s", "peak_memory_gib")  # beside the progress bar


class Outcome(Enum):
    FINISHED = "finished"
    TIME_OVER = "time over"
    INTERRUPTED = "interrupted"


class Diverged(RuntimeError):  # noqa: N818 (it says what happened)
    """A gradient was not finite; no weights were changed by it and nothing was saved after it."""


class Task(nn.Module, ABC):
    """What is trained. Registered submodules train; frozen helpers are held unregistered.

    A task takes its randomness from `draw` alone.
    """

    @abstractmethod
    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen helpers."""

    @abstractmethod
    def compile_parts(self, mode: str) -> None:
        """Compile the heavy functions."""

    @abstractmethod
    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        """The noise of a whole global batch; the first axis is the row."""

    @abstractmethod
    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        """Scalars, each a mean over the rows; the one named "loss" is minimised."""

    @abstractmethod
    def grid(self) -> np.ndarray:
        """A fixed-seed picture of what the task can do now, uint8 (H, W, 3)."""

    def measure(self) -> dict[str, float]:
        """How well the task does now on what is not trained on, under names for metrics.jsonl."""
        return {}

    @abstractmethod
    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write diffusers / transformers folders; return figures measured on the way."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task and the batches it is trained on."""

    task: Task
    batches: PlannedBatches


def step_seed(seed: int, step: int) -> int:
    """63 well-mixed bits of (seed, step)."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Trainer:
    """Drives a task from a step to the last one, saving and showing on the way."""

    def __init__(
        self, job: Job, run: RunSection, optimizer: OptimizerSection, accelerator: Accelerator
    ) -> None:  # fmt: skip
        self.run, self.settings, self.accelerator, self.plan = run, optimizer, accelerator, job.batches.plan
        task = job.task
        device = accelerator.device
        self.half = torch.bfloat16 if run.mixed_precision == "bf16" else torch.float32
        # sharded weights cannot be drawn with or exported by one process: it keeps a whole copy, beside the device
        self.unsharded = deepcopy(task) if accelerator.is_fsdp2 and accelerator.is_main_process else None
        task.to(device)
        task.place(device, self.half)
        if run.compile != "none":
            task.compile_parts(run.compile)
        self.task = task
        self.model, self.optimizer = zero.prepare(
            accelerator, task, make_optimizer(task, optimizer), dtype=self.half
        )  # fmt: skip
        self.average = make_average(self.model, self.optimizer, optimizer)
        self.powers = PowerAverages(task, are_kept=optimizer.snapshot_every is not None)
        self.generator = torch.Generator(device)
        self.first_bad = torch.tensor(-1, device=device)
        self.sums: dict[str, tuple[Tensor, float]] = {}  # since the last log: sum and weight
        self.samples = 0
        self.step = 0
        self.started, self.seconds_before = time.perf_counter(), 0.0  # of this process, and of those it goes on from
        self.journal = Journal(run.folder, accelerator)

    def load(self, checkpoint: Checkpoint) -> None:
        """Weights, averages and optimizer moments of a checkpoint; the next step follows from it."""
        take_weights(self.task, checkpoint, "model")
        take_moments(self.task, self.optimizer, checkpoint.tensors("optimizer"))
        with self.average.applied():
            take_weights(self.task, checkpoint, "ema")
        self.powers.take(checkpoint)
        self.step = checkpoint.step
        self.seconds_before = float(checkpoint.state().get("elapsed_s", 0.0))

    def save(self) -> None:
        """A checkpoint of this step; every process takes part, the main one writes."""
        self._refuse_divergence()
        groups = {"model": weights_of(self.task), "optimizer": moments_of(self.task, self.optimizer)}
        with self.average.applied():
            groups["ema"] = weights_of(self.task)
        groups |= self.powers.tensors()
        if self.accelerator.is_main_process:
            state = {"run": json.loads(self.run.model_dump_json()), "elapsed_s": self._elapsed_s()}
            folder = self.run.folder / "checkpoints"
            save_checkpoint(folder, self.step, groups, state, keep=self.run.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def train(self, batches: Iterator[Batch], *, wants_stop: Callable[[], bool]) -> Outcome:
        """Run to total_steps, to the end of max_minutes, or until wants_stop()."""
        run = self.run
        if self.accelerator.is_main_process:
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            check_space(run.folder / "checkpoints", CHECKPOINT_BYTES * trained)
        bar = tqdm(
            total=run.total_steps, initial=self.step, unit="step",
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        if self.step == 0:
            self.show()
        outcome, clock, waited = Outcome.FINISHED, time.perf_counter(), 0.0
        while self.step < run.total_steps and outcome is Outcome.FINISHED:
            waited += self._advance(batches)
            if (logs := self.step % run.log_every == 0) or self.step == run.total_steps:
                figures = self._log(clock, waited)
                bar.update(self.step - bar.n)
                bar.set_postfix({name: f"{figures[name]:.4g}" for name in SHOWN})
                clock, waited = time.perf_counter(), 0.0
            is_last = self.step == run.total_steps
            if self.step % run.sample_every == 0 or is_last:
                self.show()
            if (every := self.settings.snapshot_every) and (self.step % every == 0 or is_last):
                self.powers.snapshot(run.folder / SNAPSHOTS, self.step, writes=self.accelerator.is_main_process)
            # many processes must agree to stop, which costs a sync: they do so when they log
            if logs or self.accelerator.num_processes == 1:
                outcome = self._agree(interrupted=wants_stop(), over=self._is_time_over())
            ended = is_last or outcome is not Outcome.FINISHED
            if ended or self.step % run.checkpoint_every == 0:
                self.save()
        bar.close()
        self.journal.plot()
        return outcome

    def show(self) -> None:
        """The sample grid of the averaged weights, and how well they do."""
        with self._averaged() as task, self._autocast():
            if task is not None:
                self.journal.show(self.step, task.grid())
                if figures := task.measure():
                    self.journal.note(self.step, figures)
        self.accelerator.wait_for_everyone()

    def export(self) -> dict[str, Any]:
        """The averaged weights as diffusers / transformers folders under export/."""
        figures: dict[str, Any] = {}
        with self._averaged() as task:
            if task is not None and self.accelerator.is_main_process:
                figures = task.export(self.run.folder / "export", getattr(torch, self.run.export_dtype))
        self.accelerator.wait_for_everyone()
        return figures

    @contextmanager
    def _averaged(self) -> Iterator[Task | None]:
        """The task with the averaged weights, not to be trained; of sharded ones whole, on the main process alone."""
        device, task = self.accelerator.device, self.task
        with (
            self.average.applied(), torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # other shapes; no second compilation
        ):  # fmt: skip
            if self.accelerator.is_fsdp2:
                weights = weights_of(self.task)
                if self.unsharded is None:
                    yield None
                    return
                self.unsharded.load_state_dict(weights, strict=False)
                task = self.unsharded.to(device)
                task.place(device, self.half)
            training = task.training
            yield task.eval()
            task.train(training)
            if self.unsharded is not None:
                self.unsharded.cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, self.half, enabled=self.half is not torch.float32)

    def _advance(self, batches: Iterator[Batch]) -> float:
        """One optimizer step; nothing here waits for the device. Returns seconds without data."""
        rate = learning_rate(self.settings, self.step, self.run.total_steps, elapsed_share=self._elapsed_share())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.generator.manual_seed(step_seed(self.run.seed, self.step))
        bucket = self.plan.at(self.step)
        noise = self.task.draw(bucket, self.generator)
        waited, accumulation = 0.0, bucket.layout.accumulation
        for micro in range(accumulation):
            asked = time.perf_counter()
            batch = next_batch(batches)
            waited += time.perf_counter() - asked
            batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
            rows = bucket.layout.rows(micro)
            last = micro == accumulation - 1
            self.accelerator.sync_gradients = last  # with DeepSpeed the last one makes the step
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                metrics = self.model(batch, {k: v[rows] for k, v in noise.items()})
                self.accelerator.backward(metrics["loss"] / accumulation)
            self._add({k: v.detach() for k, v in metrics.items()}, weight=1 / accumulation)
            if len(self.plan.kinds) > 1:  # of each kind apart, too
                self._add({f"loss_{bucket.kind}": metrics["loss"].detach()}, weight=1 / accumulation)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        norm = whole(torch.as_tensor(norm, device=self.accelerator.device))  # of DeepSpeed a number
        bad = ~torch.isfinite(norm)
        self.first_bad = torch.where(bad & (self.first_bad < 0), self.step, self.first_bad)
        if self.settings.kind == "adamw":
            self.optimizer.optimizer.found_inf = bad.float()  # the fused kernel then leaves all as it is
            self.optimizer.step()
        elif not bad:  # the others cannot tell by themselves: this waits for the device
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.powers.update(self.step)
        self._add({"grad_norm": norm})
        self.samples += bucket.layout.global_batch
        self.step += 1
        return waited

    def _elapsed_s(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _elapsed_share(self) -> float | None:
        """Share of max_minutes that is over, counting the processes that this one goes on from."""
        if self.run.max_minutes is None or self.settings.decay_over == "steps":
            return None
        return self._elapsed_s() / 60 / self.run.max_minutes

    def _is_time_over(self) -> bool:
        """Whether max_minutes are over: of this process, or of the whole run where the learning rate ends with them."""
        if self.run.max_minutes is None:
            return False
        elapsed_s = self._elapsed_s() - (self.seconds_before if self.settings.decay_over == "steps" else 0.0)
        return elapsed_s / 60 >= self.run.max_minutes

    def _add(self, metrics: dict[str, Tensor], *, weight: float = 1.0) -> None:
        for name, value in metrics.items():
            total, weights = self.sums.get(name, (torch.zeros_like(value), 0.0))
            self.sums[name] = (total + weight * value, weights + weight)

    def _log(self, clock: float, waited: float) -> dict[str, float]:
        """Means since the last log, over all processes, as one line of metrics.jsonl."""
        self._refuse_divergence()
        values = torch.stack([(total / weights).float() for total, weights in self.sums.values()])
        values = self.accelerator.reduce(values, reduction="mean")
        seconds = time.perf_counter() - clock
        figures = dict(zip(self.sums, values.tolist(), strict=True))
        figures["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        figures["samples_per_s"] = self.samples / seconds
        figures["data_wait"] = waited / seconds
        figures["peak_memory_gib"] = peak_memory_gib(self.accelerator.device)
        self.journal.note(self.step, figures)
        self.sums, self.samples = {}, 0
        return figures

    def _refuse_divergence(self) -> None:
        step = int(self.first_bad)
        if step >= 0:
            raise Diverged(
                f"the gradient of step {step} is not finite ({self.plan.describe(step)}); its update was not applied "
                "and nothing was saved since: resume with a lower learning rate or look at these samples"
            )

    def _agree(self, *, interrupted: bool, over: bool) -> Outcome:
        flags = torch.tensor([interrupted, over], dtype=torch.float32)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags.to(self.accelerator.device), reduction="sum")
        interrupted, over = (flags > 0).tolist()
        if interrupted:
            return Outcome.INTERRUPTED
        return Outcome.TIME_OVER if over else Outcome.FINISHED
