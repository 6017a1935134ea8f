"""Batches as a pure function of (seed, position), the same for any number of processes.

A step takes the positions that follow its own first one. Its rows are dealt out to micro-batches in order:
process r, accumulation m holds rows [(r * accumulation + m) * micro, ... + micro).
"""

import os
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dianjing.train.data.samples import Batch, CaptionEncoder
from dianjing.train.data.schedule import SampleSchedule


class ScheduledBatches(Protocol):
    """Item i is micro-batch i % accumulation of step i // accumulation."""

    @property
    def schedule(self) -> SampleSchedule: ...

    def __getitem__(self, index: int) -> Batch: ...


class MicroBatchDataset(Dataset[Batch]):
    """Samples of a world, drawn by the worker that builds the batch.

    "images" is uint8, (B, H, W, 3) of pictures and (B, F, H, W, 3) of clips.
    """

    def __init__(self, schedule: SampleSchedule, *, seed: int, caption_encoder: CaptionEncoder | None = None) -> None:
        self.schedule, self.seed, self.caption_encoder = schedule, seed, caption_encoder

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.schedule.accumulation_steps)
        bucket = self.schedule.bucket_at(step)
        rows = bucket.shards.get_rows(micro)
        samples = [self.schedule.get_sample(step, row) for row in range(rows.start, rows.stop)]
        images = np.stack([sample.image if bucket.kind == "image" else sample.frames for sample in samples])
        batch = {"images": torch.from_numpy(images)}
        if self.caption_encoder is not None:
            draws = np.random.default_rng((self.seed, step)).random((bucket.shards.global_batch_size, 2))
            batch |= self.caption_encoder(samples, draws[rows], kind=bucket.kind)
        return batch


def _detach_process_group(worker: int) -> None:
    """Ctrl-C or SIGTERM for the whole group must not kill the data of the step being finished.

    The loader itself ends workers by name, so they may not simply ignore the signal.
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
) -> DataLoader[Batch]:
    """Micro-batches from first_step on, in order; nothing before it is computed."""
    every = dataset.schedule.accumulation_steps
    return DataLoader(
        cast(Dataset[Batch], dataset),
        batch_size=None,
        sampler=range(first_step * every, total_steps * every),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_detach_process_group,
    )


def next_batch(batches: Iterator[Batch]) -> Batch:
    """A killed worker is torch's "DataLoader worker ... is killed" also where it dies while its pipe is being read."""
    try:
        return next(batches)
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is gone: {error}") from error
