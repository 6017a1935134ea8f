"""Aspect-ratio buckets for data set files: their shapes, the fit of an image to one, and the schedule over epochs.

H height, W width in pixels.
"""

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from dianjing.train.data.fitting import fit_image
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.schedule import BatchShards, Bucket

MAX_AREA_DIFFERENCE = 0.25  # of a shape, from the square's area
MIN_ASPECT_GAP = 0.06  # between the logarithms of two aspect ratios: an image loses about half of it
BucketShape = tuple[int, ...]  # (height, width) in pixels of images, (height, width, frames) of clips
EpochBatches = list[tuple[BucketShape, list[int]]]  # indices of the records of each batch of an epoch


def get_num_frames(shape: BucketShape) -> int:
    """Number of frames of a bucket; 1 for images."""
    return shape[2] if len(shape) > 2 else 1


@dataclass(frozen=True, kw_only=True)
class BucketFit:
    """The fit of an image to a bucket: the fraction of its area that is cropped, and its scale factor."""

    shape: BucketShape
    cropped_fraction: float
    scale: float


def make_bucket_shapes(size_px: int, *, multiple_px: int, max_aspect_ratio: float) -> list[BucketShape]:
    """Shapes of about size_px ** 2 pixels whose sides are multiples of `multiple_px`, the square first.

    The ratio of the longer to the shorter side is at most `max_aspect_ratio`. There is one shape for each longer side;
    where their aspect ratios lie far apart, as those of small images do, further shapes of up to a quarter more or
    fewer pixels stand between them, such as 3 x 4.
    """
    side = round(size_px / multiple_px)
    longest = math.ceil(side * max_aspect_ratio)
    shapes = [(side, side), *((max(1, round(side * side / longer)), longer) for longer in range(side + 1, longest + 1))]
    shapes = [(shorter, longer) for shorter, longer in shapes if longer <= max_aspect_ratio * shorter]
    aspects = sorted(math.log(longer / shorter) for shorter, longer in shapes)
    others = [(shorter, longer) for longer in range(1, longest + 1) for shorter in range(1, longer)]
    for shorter, longer in sorted(others, key=lambda shape: abs(shape[0] * shape[1] / side**2 - 1)):
        if abs(shorter * longer / side**2 - 1) > MAX_AREA_DIFFERENCE:
            break
        aspect = math.log(longer / shorter)
        index = bisect.bisect(aspects, aspect)
        is_apart = all(abs(aspect - other) >= MIN_ASPECT_GAP for other in aspects[max(0, index - 1) : index + 1])
        if longer <= max_aspect_ratio * shorter and is_apart:
            aspects.insert(index, aspect)
            shapes.append((shorter, longer))
    both = [(side, side), *(shape for a, b in shapes[1:] for shape in ((a, b), (b, a)))]
    return [(height * multiple_px, width * multiple_px) for height, width in both]


def find_nearest_bucket(size: tuple[int, int], candidates: Sequence[BucketShape]) -> BucketFit:
    """Find the shape whose aspect ratio is nearest to that of an image of (width, height)."""
    width, height = size
    aspect = math.log(width / height)
    rows, columns = min(candidates, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))
    scale = max(columns / width, rows / height)
    cropped_fraction = 1 - rows * columns / (width * height * scale**2)
    return BucketFit(shape=(rows, columns), cropped_fraction=cropped_fraction, scale=scale)


@dataclass(frozen=True)
class FileSample:
    """An image of a data set, fitted to its bucket when first read."""

    record: SampleRecord
    shape: BucketShape

    @cached_property
    def image(self) -> np.ndarray:
        """The image, uint8 (H, W, 3). Raises: DianjingError if the file can no longer be read."""
        height, width = self.shape[:2]
        image = decode_image(self.record.source, name=self.record.name)
        return np.asarray(fit_image(image, self.record, height=height, width=width))

    @property
    def text_zh(self) -> str:
        return self.record.text_zh or self.record.text_en or ""

    @property
    def text_en(self) -> str:
        return self.record.text_en or self.record.text_zh or ""


class FileSchedule:
    """A SampleSchedule over the epochs of data sets; all samples of a batch have the same shape.

    `records` and `repeats` are grouped by shape; a sample with repeats 3 occurs three times in an epoch, and half of
    the samples with repeats 0.5 occur in each epoch.
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
        """The sample at a row of the global batch.

        If it cannot be read, `num_skipped` selects a later sample of the same shape instead.
        """
        shape, indices = self._batch_at(step)
        records = self.records[shape]
        return FileSample(records[(indices[row] + num_skipped) % len(records)], shape)

    def get_names(self, step: int) -> list[str]:
        shape, indices = self._batch_at(step)
        return [self.records[shape][index].name for index in indices]

    def describe_step(self, step: int) -> list[str]:
        return self.get_names(step)

    def _batch_at(self, step: int) -> tuple[BucketShape, list[int]]:
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _shuffle_epoch(self, epoch: int) -> EpochBatches:
        rng = random.Random(f"{self.seed}/{epoch}")
        batches: EpochBatches = []
        size = self.shards.global_batch_size
        for shape in self.records:
            indices = sample_epoch_indices(self.repeats[shape], rng)
            rng.shuffle(indices)
            num_missing = -len(indices) % size  # fill the last batch with samples that occur again
            indices += (indices * math.ceil(num_missing / len(indices)))[:num_missing]
            batches += [(shape, indices[first : first + size]) for first in range(0, len(indices), size)]
        rng.shuffle(batches)
        return batches


def _get_kind(shape: BucketShape) -> Literal["image", "clip"]:
    return "image" if get_num_frames(shape) == 1 else "clip"


def sample_epoch_indices(repeats: Sequence[float], rng: random.Random) -> list[int]:
    """Indices of an epoch, each as often as the integer part of its repeats, at least one index in all.

    For the fractional parts, as many indices as their sum are drawn without replacement.
    Source: weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    indices = [index for index, repeat in enumerate(repeats) for _ in range(int(repeat))]
    fractions = [repeat - int(repeat) for repeat in repeats]
    keys = sorted(((rng.random() ** (1 / part), index) for index, part in enumerate(fractions) if part), reverse=True)
    indices += [index for _, index in keys[: round(sum(fractions))]]
    return indices or [rng.randrange(len(repeats))]
