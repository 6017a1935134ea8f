"""Batches as a pure function of (seed, step), the same for any number of processes and data workers.

Each step starts at its own position. The rows of its global batch are divided in order: process r, accumulation step m
holds rows [(r * accumulation_steps + m) * micro_batch_size, ... + micro_batch_size).
"""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dianjing.train.data.samples import Batch, CaptionEncoder
from dianjing.train.data.schedule import SampleSchedule


class ScheduledBatches(Protocol):
    """All micro-batches of a run: item i is accumulation step i % A of step i // A, with A accumulation steps."""

    @property
    def schedule(self) -> SampleSchedule: ...

    def __getitem__(self, index: int) -> Batch: ...


class MicroBatchDataset(Dataset[Batch]):
    """Micro-batches of a sample source, rendered by the data worker that builds them.

    "images" is uint8: (B, H, W, 3) for images, (B, F, H, W, 3) for clips.
    """

    def __init__(self, schedule: SampleSchedule, *, seed: int, caption_encoder: CaptionEncoder | None = None) -> None:
        self.schedule, self.seed, self.caption_encoder = schedule, seed, caption_encoder

    def __getitem__(self, index: int) -> Batch:
        step, micro_step = divmod(index, self.schedule.accumulation_steps)
        bucket = self.schedule.bucket_at(step)
        rows = bucket.shards.get_rows(micro_step)
        samples = [self.schedule.get_sample(step, row) for row in range(rows.start, rows.stop)]
        images = np.stack([sample.image if bucket.kind == "image" else sample.frames for sample in samples])
        batch = {"images": torch.from_numpy(images)}
        if self.caption_encoder is not None:
            uniforms = np.random.default_rng((self.seed, step)).random((bucket.shards.global_batch_size, 2))
            batch |= self.caption_encoder(samples, uniforms[rows], kind=bucket.kind)
        return batch


def _detach_process_group(worker: int) -> None:
    """Shield a data worker from signals to the process group (Ctrl-C, SIGTERM).

    The step being computed when the signal comes still needs its data. Ignoring the signals is no alternative: the
    loader ends its workers with SIGTERM.
    """
    os.setpgrp()


def make_loader(
    dataset: ScheduledBatches,
    *,
    first_step: int,
    total_steps: int,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    echo_factor: int = 1,
) -> DataLoader[Batch]:
    """Load micro-batches in order from `first_step` on; earlier ones are not computed.

    With `echo_factor` above 1, one batch is loaded for each group of that many steps: see `echo_batches`.
    """
    accumulation_steps = dataset.schedule.accumulation_steps
    indices = range(first_step * accumulation_steps, total_steps * accumulation_steps)
    if echo_factor > 1:
        assert accumulation_steps == 1, "checked in the run file"
        indices = range(first_step - first_step % echo_factor, total_steps, echo_factor)
    return DataLoader(
        cast(Dataset[Batch], dataset),
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_detach_process_group,
    )


def start_loader(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Start the data workers of a loader, and iterate over its batches.

    The death of a worker is found by `next_batch` alone. PyTorch's handler of SIGCHLD would raise it wherever the main
    thread is: in a save, or a second time while the first error is handled, for pipes of a process close before that.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, handler)
    return batches


def echo_batches(batches: Iterator[Batch], *, first_step: int, total_steps: int, echo_factor: int) -> Iterator[Batch]:
    """Yield each batch for a group of `echo_factor` steps; the batch of a step depends on its number alone.

    Source: data echoing (Choi et al. 2019, arXiv 1907.05550).
    """
    batch: Batch = {}
    for step in range(first_step, total_steps):
        if step == first_step or step % echo_factor == 0:
            batch = next_batch(batches)
        yield batch


def next_batch(batches: Iterator[Batch]) -> Batch:
    """The next micro-batch.

    Raises: RuntimeError ("DataLoader worker ...") if a data worker has died, also while its pipe was being read.
    """
    try:
        return next(batches)
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is gone: {error}") from error
