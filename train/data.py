"""Batches as a pure function of (seed, position), the same for any number of processes.

A step takes `global_batch` consecutive positions. Its rows are dealt out to micro-batches in order:
process r, accumulation m holds rows [(r * accumulation + m) * micro, ... + micro).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]


class Sample(Protocol):
    @property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3), drawn when first read."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class World(Protocol):
    def picture(self, seed: int, position: int) -> Sample: ...


class CaptionEncoder(Protocol):
    def __call__(self, samples: Sequence[Sample], draws: np.ndarray) -> Batch:
        """Token ids and masks of n captions; draws (n, 2) are uniform on [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Who computes which rows of the global batch."""

    global_batch: int
    accumulation: int
    processes: int
    rank: int

    def __post_init__(self) -> None:
        parts = self.processes * self.accumulation
        if self.global_batch % parts:
            raise ValueError(
                f"batch_size {self.global_batch} is not a multiple of {parts} "
                f"({self.processes} processes x accumulation {self.accumulation}); "
                f"try {max(1, round(self.global_batch / parts)) * parts}"
            )

    @property
    def micro_batch(self) -> int:
        return self.global_batch // (self.processes * self.accumulation)

    def rows(self, micro: int) -> slice:
        first = (self.rank * self.accumulation + micro) * self.micro_batch
        return slice(first, first + self.micro_batch)


class MicroBatches(Dataset[Batch]):
    """Item i is micro-batch i % accumulation of step i // accumulation, built whole by one worker."""

    def __init__(self, world: World, layout: Layout, *, seed: int, captions: CaptionEncoder | None = None) -> None:
        self.world, self.layout, self.seed, self.captions = world, layout, seed, captions

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.layout.accumulation)
        rows = self.layout.rows(micro)
        first = step * self.layout.global_batch
        samples = [self.world.picture(self.seed, first + r) for r in range(rows.start, rows.stop)]
        images = np.stack([sample.image for sample in samples])
        batch = {"images": torch.from_numpy(images)}  # (B, H, W, 3) uint8
        if self.captions is not None:
            draws = np.random.default_rng((self.seed, step)).random((self.layout.global_batch, 2))
            batch |= self.captions(samples, draws[rows])
        return batch


def _leave_group(worker: int) -> None:
    """Ctrl-C or SIGTERM for the whole group must not kill the data of the step being finished.

    The loader itself ends workers by name, so they may not simply ignore the signal.
    """
    os.setpgrp()


def loader(
    data: MicroBatches, *, first_step: int, total_steps: int, workers: int, prefetch: int, pin: bool
) -> DataLoader[Batch]:
    """Micro-batches from first_step on, in order; nothing before it is computed."""
    every = data.layout.accumulation
    return DataLoader(
        data,
        batch_size=None,
        sampler=range(first_step * every, total_steps * every),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin,
        worker_init_fn=_leave_group,
    )
