"""Batches as a pure function of (seed, position), the same for any number of processes.

A step takes the positions that follow its own first one. Its rows are dealt out to micro-batches in order:
process r, accumulation m holds rows [(r * accumulation + m) * micro, ... + micro).
"""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

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
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (K, H, W); for segmenters alone."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class ClipSample(Protocol):
    """The first frame is the picture that is clicked on; K objects."""

    @property
    def frames(self) -> np.ndarray:
        """uint8 (F, H, W, 3)."""

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (F, K, H, W)."""

    def ways_back(self, index: int, side: int) -> np.ndarray:
        """From each of side x side cells to where object `index` had it in the first frame, in picture sides:
        float32 (F, side, side, 2), NaN away from the object.
        """

    @property
    def strengths(self) -> Sequence[float]:
        """How fast each object moves, in picture sides a second; 0 for what stands still."""

    @property
    def phrases(self) -> Sequence[tuple[Sequence[str], Sequence[str]] | None]:
        """Phrasings that ask for what each object does, Chinese and English; None for what stands still."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class World(Protocol):
    def picture(self, seed: int, position: int) -> Sample: ...

    def clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...

    def click(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...


class CaptionEncoder(Protocol):
    def __call__(self, samples: Sequence[Any], draws: np.ndarray, *, kind: str) -> Batch:
        """What is said of n samples, and clicked, as tensors of n rows; draws (n, 2) are uniform on [0, 1)."""


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


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What the samples of a step have in common: pictures, clips with captions, or clips with clicks."""

    kind: Literal["picture", "clip", "click"] = "picture"
    num_frames: int = 1
    height: int | None = None  # in pixels; None where every bucket has the run's size
    width: int | None = None
    layout: Layout


class Plan(Protocol):
    """Which samples a step takes: functions of a seed and the step alone."""

    @property
    def accumulation(self) -> int: ...

    @property
    def kinds(self) -> frozenset[str]:
        """Of its buckets."""

    def at(self, step: int) -> Bucket: ...

    def sample(self, step: int, row: int) -> Any:
        """A `Sample`, or a `ClipSample` in buckets of clips; row of the global batch."""

    def describe(self, step: int) -> str:
        """The samples of a step, for whoever looks for a bad one."""


@dataclass(frozen=True, kw_only=True)
class WorldPlan:
    """Samples of a world, each bucket as often as its share says.

    stride: positions from one step to the next, the same for all buckets so that positions tell how far the run is.
    """

    world: World
    buckets: Sequence[Bucket]
    shares: Sequence[float]
    stride: int
    seed: int
    fps: float = 8.0

    def __post_init__(self) -> None:
        largest = max(bucket.layout.global_batch for bucket in self.buckets)
        if largest > self.stride:
            raise ValueError(f"a bucket of {largest} samples in a run of batch_size {self.stride}; raise batch_size")

    @property
    def accumulation(self) -> int:
        return self.buckets[0].layout.accumulation

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(bucket.kind for bucket in self.buckets)

    def at(self, step: int) -> Bucket:
        return random.Random(f"{self.seed}/{step}").choices(self.buckets, self.shares)[0]

    def sample(self, step: int, row: int) -> Any:
        bucket, position = self.at(step), step * self.stride + row
        if bucket.kind == "picture":
            return self.world.picture(self.seed, position)
        draw = self.world.clip if bucket.kind == "clip" else self.world.click
        return draw(self.seed, position, num_frames=bucket.num_frames, fps=self.fps)

    def describe(self, step: int) -> str:
        bucket, first = self.at(step), step * self.stride
        return f"seed {self.seed}, {bucket.kind} samples {first} to {first + bucket.layout.global_batch - 1}"


def only_pictures(world: World, layout: Layout, *, seed: int) -> WorldPlan:
    return WorldPlan(
        world=world, buckets=[Bucket(layout=layout)], shares=[1.0], stride=layout.global_batch, seed=seed
    )  # fmt: skip


class PlannedBatches(Protocol):
    """Item i is micro-batch i % accumulation of step i // accumulation."""

    @property
    def plan(self) -> Plan: ...

    def __getitem__(self, index: int) -> Batch: ...


class MicroBatches(Dataset[Batch]):
    """Samples of a world, drawn by the worker that builds the batch.

    "images" is uint8, (B, H, W, 3) of pictures and (B, F, H, W, 3) of clips.
    """

    def __init__(self, plan: Plan, *, seed: int, captions: CaptionEncoder | None = None) -> None:
        self.plan, self.seed, self.captions = plan, seed, captions

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.plan.accumulation)
        bucket = self.plan.at(step)
        rows = bucket.layout.rows(micro)
        samples = [self.plan.sample(step, row) for row in range(rows.start, rows.stop)]
        images = np.stack([sample.image if bucket.kind == "picture" else sample.frames for sample in samples])
        batch = {"images": torch.from_numpy(images)}
        if self.captions is not None:
            draws = np.random.default_rng((self.seed, step)).random((bucket.layout.global_batch, 2))
            batch |= self.captions(samples, draws[rows], kind=bucket.kind)
        return batch


def _leave_group(worker: int) -> None:
    """Ctrl-C or SIGTERM for the whole group must not kill the data of the step being finished.

    The loader itself ends workers by name, so they may not simply ignore the signal.
    """
    os.setpgrp()


def loader(
    data: PlannedBatches, *, first_step: int, total_steps: int, workers: int, prefetch: int, pin: bool,
    repeat_steps: int = 1,
) -> DataLoader[Batch]:  # fmt: skip
    """Micro-batches from first_step on, in order; nothing before it is computed.

    With repeat_steps above 1, one batch for each group of so many steps: see `repeat_batches`.
    """
    every = data.plan.accumulation
    indices = range(first_step * every, total_steps * every)
    if repeat_steps > 1:
        assert every == 1, "checked in the run file"
        indices = range(first_step - first_step % repeat_steps, total_steps, repeat_steps)
    return DataLoader(
        cast(Dataset[Batch], data),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin,
        worker_init_fn=_leave_group,
    )


def repeat_batches(
    batches: Iterator[Batch], *, first_step: int, total_steps: int, repeat_steps: int
) -> Iterator[Batch]:  # fmt: skip
    """Give each batch to a group of repeat_steps steps; a step's batch depends on its number alone."""
    batch: Batch = {}
    for step in range(first_step, total_steps):
        if step == first_step or step % repeat_steps == 0:
            batch = next_batch(batches)
        yield batch


def next_batch(batches: Iterator[Batch]) -> Batch:
    """A killed worker is torch's "DataLoader worker ... is killed" also where it dies while its pipe is being read."""
    try:
        return next(batches)
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is gone: {error}") from error
