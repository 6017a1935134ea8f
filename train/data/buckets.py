"""Aspect-ratio buckets: which shapes pictures are brought to, and what that costs each of them."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from dianjing.pipelines.media.image import resize_crop
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.schedule import BatchShards, Bucket

BucketShape = tuple[int, ...]  # height and width in pixels, and of films the number of frames


def get_num_frames(shape: BucketShape) -> int:
    """1 of pictures."""
    return shape[2] if len(shape) > 2 else 1


@dataclass(frozen=True, kw_only=True)
class BucketFit:
    """A picture's shape, the share of it that is cut off, and how much it is enlarged."""

    shape: BucketShape
    cropped_fraction: float
    scale: float


def make_bucket_shapes(size_px: int, *, multiple_px: int, max_aspect_ratio: float) -> list[BucketShape]:
    """All shapes of about size_px squared pixels with sides in multiples, none longer than max_aspect its width.

    The square comes first.
    """
    side = round(size_px / multiple_px)
    found = [(side, side)]
    for longer in range(side + 1, math.ceil(side * max_aspect_ratio) + 1):
        shorter = max(1, round(side * side / longer))
        if longer <= max_aspect_ratio * shorter:
            found += [(shorter, longer), (longer, shorter)]
    return [(height * multiple_px, width * multiple_px) for height, width in found]


def find_nearest_bucket(size: tuple[int, int], candidates: Sequence[BucketShape]) -> BucketFit:
    """The shape whose aspect is nearest to that of a picture of (width, height)."""
    width, height = size
    aspect = math.log(width / height)
    rows, columns = min(candidates, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))
    scale = max(columns / width, rows / height)
    return BucketFit(
        shape=(rows, columns), cropped_fraction=1 - rows * columns / (width * height * scale**2), scale=scale
    )


@dataclass(frozen=True)
class FileSample:
    """A picture of a data set, brought to its bucket's shape when first read."""

    record: SampleRecord
    shape: BucketShape

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises ValueError where the file has changed since it was looked at."""
        height, width = self.shape[:2]
        picture, _ = resize_crop(decode_image(self.record.source, name=self.record.name), height=height, width=width)
        return np.asarray(picture)

    @property
    def text_zh(self) -> str:
        return self.record.text_zh or self.record.text_en or ""

    @property
    def text_en(self) -> str:
        return self.record.text_en or self.record.text_zh or ""


EpochBatches = list[tuple[BucketShape, list[int]]]


class FileSchedule:
    """Steps over the pictures of data sets, as `Plan`.

    pictures: by shape. repeats: by shape too, how often each takes part in an epoch; of 0.5 half take part.
    """

    def __init__(
        self,
        records: Mapping[BucketShape, Sequence[SampleRecord]],
        repeats: Mapping[BucketShape, Sequence[float]],
        *,
        shards: BatchShards,
        seed: int,
    ) -> None:
        self.records, self.repeats, self.shards, self.seed = records, repeats, shards, seed
        self.accumulation_steps = shards.accumulation_steps
        self._epoch = lru_cache(maxsize=2)(self._shuffle_epoch)
        self.steps_per_epoch = len(self._epoch(0))  # the same for every epoch

    @property
    def bucket_kinds(self) -> frozenset[str]:
        return frozenset(_get_kind(shape) for shape in self.records)

    def bucket_at(self, step: int) -> Bucket:
        shape, _ = self._batch_at(step)
        height, width = shape[:2]
        return Bucket(
            kind=_get_kind(shape), num_frames=get_num_frames(shape), shards=self.shards, height=height, width=width
        )

    def get_sample(self, step: int, row: int, *, num_skipped: int = 0) -> FileSample:
        """after: how many pictures of the same shape to go on by, where the one that is due cannot be read."""
        shape, indices = self._batch_at(step)
        among = self.records[shape]
        return FileSample(among[(indices[row] + num_skipped) % len(among)], shape)

    def get_names(self, step: int) -> list[str]:
        shape, indices = self._batch_at(step)
        return [self.records[shape][index].name for index in indices]

    def describe_step(self, step: int) -> str:
        return ", ".join(self.get_names(step))

    def _batch_at(self, step: int) -> tuple[BucketShape, list[int]]:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def _shuffle_epoch(self, epoch: int) -> EpochBatches:
        rng = random.Random(f"{self.seed}/{epoch}")
        batches: EpochBatches = []
        size = self.shards.global_batch_size
        for shape in self.records:
            drawn = sample_epoch_indices(self.repeats[shape], rng)
            rng.shuffle(drawn)
            short = -len(drawn) % size
            drawn += (drawn * math.ceil(short / len(drawn)))[:short]
            batches += [(shape, drawn[first : first + size]) for first in range(0, len(drawn), size)]
        rng.shuffle(batches)
        return batches


def _get_kind(shape: BucketShape) -> Literal["image", "clip"]:
    return "image" if get_num_frames(shape) == 1 else "clip"


def sample_epoch_indices(repeats: Sequence[float], rng: random.Random) -> list[int]:
    """Indices, each as often as its repeats say; of what is left over, so many that the sum is right, and at least one.

    Source: weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    drawn = [index for index, repeat in enumerate(repeats) for _ in range(int(repeat))]
    rest = [repeat - int(repeat) for repeat in repeats]
    keys = sorted(((rng.random() ** (1 / part), index) for index, part in enumerate(rest) if part), reverse=True)
    drawn += [index for _, index in keys[: round(sum(rest))]]
    return drawn or [rng.randrange(len(repeats))]
