"""The schedule of a run: which samples each step takes, and which rows of a batch each process computes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dianjing.errors import DianjingError, Message
from dianjing.train.data.samples import SampleSource


@dataclass(frozen=True, kw_only=True)
class BatchShards:
    """The division of a global batch into the rows of each process and gradient accumulation step."""

    global_batch_size: int
    accumulation_steps: int
    num_processes: int
    rank: int

    def __post_init__(self) -> None:
        parts = self.num_processes * self.accumulation_steps
        if self.global_batch_size % parts:
            raise DianjingError(
                "batch_not_divisible",
                batch_size=self.global_batch_size,
                num_processes=self.num_processes,
                accumulation_steps=self.accumulation_steps,
                nearest=max(1, round(self.global_batch_size / parts)) * parts,
            )

    @property
    def micro_batch_size(self) -> int:
        return self.global_batch_size // (self.num_processes * self.accumulation_steps)

    def get_rows(self, micro_step: int) -> slice:
        """Rows of the global batch that this process computes in one accumulation step."""
        first = (self.rank * self.accumulation_steps + micro_step) * self.micro_batch_size
        return slice(first, first + self.micro_batch_size)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The properties that all samples of a step share: images, captioned clips, or clips with motion control."""

    kind: Literal["image", "clip", "controlled"] = "image"
    num_frames: int = 1
    height: int | None = None  # in pixels; None: the size of the run, the same for all buckets
    width: int | None = None
    shards: BatchShards


class SampleSchedule(Protocol):
    """The samples of each step, as a function of a seed and the step alone."""

    @property
    def accumulation_steps(self) -> int: ...

    @property
    def bucket_kinds(self) -> frozenset[str]:
        """The kinds of all its buckets."""

    def bucket_at(self, step: int) -> Bucket: ...

    def get_sample(self, step: int, row: int) -> Any:
        """The sample at a row of the global batch: an ImageSample, or a ClipSample in buckets of clips."""

    def describe_step(self, step: int) -> Message | list[str]:
        """Positions or names of the samples of a step, for error messages."""


@dataclass(frozen=True, kw_only=True)
class SourceSchedule:
    """Samples of a generator, where each step picks a bucket at random by its sampling weight.

    `positions_per_step` is the same for all buckets, so that a position tells how far the run has come.
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
            raise DianjingError("bucket_exceeds_batch", bucket_size=largest, batch_size=self.positions_per_step)

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
        get_clip = self.source.get_captioned_clip if bucket.kind == "clip" else self.source.get_controlled_clip
        return get_clip(self.seed, position, num_frames=bucket.num_frames, fps=self.fps)

    def describe_step(self, step: int) -> Message | list[str]:
        bucket, first = self.bucket_at(step), step * self.positions_per_step
        last = first + bucket.shards.global_batch_size - 1
        return Message("generated_samples", seed=self.seed, kind=bucket.kind, first=first, last=last)


def make_image_schedule(source: SampleSource, shards: BatchShards, *, seed: int) -> SourceSchedule:
    """A schedule with a single bucket of images."""
    return SourceSchedule(
        source=source,
        buckets=[Bucket(shards=shards)],
        sampling_weights=[1.0],
        positions_per_step=shards.global_batch_size,
        seed=seed,
    )
