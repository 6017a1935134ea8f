"""Schedule."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dianjing.train.data.samples import SampleSource


@dataclass(frozen=True, kw_only=True)
class BatchShards:
    """Who computes which rows of the global batch."""

    global_batch_size: int
    accumulation_steps: int
    num_processes: int
    rank: int

    def __post_init__(self) -> None:
        parts = self.num_processes * self.accumulation_steps
        if self.global_batch_size % parts:
            raise ValueError(
                f"batch_size {self.global_batch_size} is not a multiple of {parts} "
                f"({self.num_processes} processes x accumulation {self.accumulation_steps}); "
                f"try {max(1, round(self.global_batch_size / parts)) * parts}"
            )

    @property
    def micro_batch_size(self) -> int:
        return self.global_batch_size // (self.num_processes * self.accumulation_steps)

    def get_rows(self, micro_step: int) -> slice:
        first = (self.rank * self.accumulation_steps + micro_step) * self.micro_batch_size
        return slice(first, first + self.micro_batch_size)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What the samples of a step have in common: pictures, clips with captions, or clips with clicks."""

    kind: Literal["image", "clip", "controlled"] = "image"
    num_frames: int = 1
    height: int | None = None  # in pixels; None where every bucket has the run's size
    width: int | None = None
    shards: BatchShards


class SampleSchedule(Protocol):
    """Which samples a step takes: functions of a seed and the step alone."""

    @property
    def accumulation_steps(self) -> int: ...

    @property
    def bucket_kinds(self) -> frozenset[str]:
        """Of its buckets."""

    def bucket_at(self, step: int) -> Bucket: ...

    def get_sample(self, step: int, row: int) -> Any:
        """A `Sample`, or a `ClipSample` in buckets of clips; row of the global batch."""

    def describe_step(self, step: int) -> str:
        """The samples of a step, for whoever looks for a bad one."""


@dataclass(frozen=True, kw_only=True)
class SourceSchedule:
    """Samples of a world, each bucket as often as its share says.

    stride: positions from one step to the next, the same for all buckets so that positions tell how far the run is.
    """

    source: SampleSource
    buckets: Sequence[Bucket]
    sampling_weights: Sequence[float]
    positions_per_step: int
    seed: int
    fps: float = 8.0

    def __post_init__(self) -> None:
        largest = max(bucket.shards.global_batch_size for bucket in self.buckets)
        if largest > self.positions_per_step:
            raise ValueError(
                f"a bucket of {largest} samples in a run of batch_size {self.positions_per_step}; raise batch_size"
            )

    @property
    def accumulation_steps(self) -> int:
        return self.buckets[0].shards.accumulation_steps

    @property
    def bucket_kinds(self) -> frozenset[str]:
        return frozenset(bucket.kind for bucket in self.buckets)

    def bucket_at(self, step: int) -> Bucket:
        return random.Random(f"{self.seed}/{step}").choices(self.buckets, self.sampling_weights)[0]

    def get_sample(self, step: int, row: int) -> Any:
        bucket, position = self.bucket_at(step), step * self.positions_per_step + row
        if bucket.kind == "image":
            return self.source.get_image_sample(self.seed, position)
        draw = self.source.get_captioned_clip if bucket.kind == "clip" else self.source.get_controlled_clip
        return draw(self.seed, position, num_frames=bucket.num_frames, fps=self.fps)

    def describe_step(self, step: int) -> str:
        bucket, first = self.bucket_at(step), step * self.positions_per_step
        return f"seed {self.seed}, {bucket.kind} samples {first} to {first + bucket.shards.global_batch_size - 1}"


def make_image_schedule(source: SampleSource, shards: BatchShards, *, seed: int) -> SourceSchedule:
    return SourceSchedule(
        source=source,
        buckets=[Bucket(shards=shards)],
        sampling_weights=[1.0],
        positions_per_step=shards.global_batch_size,
        seed=seed,
    )
