"""Which pictures a step takes: a pure function of (seed, step), every picture once an epoch.

An epoch deals each shape's pictures out into batches, the last one filled up from the front, and shuffles the batches.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from dianjing.pipelines.fitting import fit
from dianjing.train.data import Bucket, Layout
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.looking import decode
from dianjing.train.sets.shapes import Shape, frames_of


@dataclass(frozen=True)
class FileSample:
    """A picture of a data set, brought to its bucket's shape when first read."""

    entry: Entry
    shape: Shape

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises ValueError where the file has changed since it was looked at."""
        height, width = self.shape[:2]
        picture, _ = fit(decode(self.entry.source, name=self.entry.name), height=height, width=width)
        return np.asarray(picture)

    @property
    def text_zh(self) -> str:
        return self.entry.text_zh or self.entry.text_en or ""

    @property
    def text_en(self) -> str:
        return self.entry.text_en or self.entry.text_zh or ""


Batches = list[tuple[Shape, list[int]]]


class FilePlan:
    """Steps over the pictures of data sets, as `Plan`.

    pictures: by shape. repeats: by shape too, how often each takes part in an epoch; of 0.5 half take part.
    """

    def __init__(
        self,
        pictures: Mapping[Shape, Sequence[Entry]],
        repeats: Mapping[Shape, Sequence[float]],
        *,
        layout: Layout,
        seed: int,
    ) -> None:
        self.pictures, self.repeats, self.layout, self.seed = pictures, repeats, layout, seed
        self.accumulation = layout.accumulation
        self._epoch = lru_cache(maxsize=2)(self._deal)
        self.epoch_steps = len(self._epoch(0))  # the same for every epoch

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(_kind(shape) for shape in self.pictures)

    def at(self, step: int) -> Bucket:
        shape, _ = self._batch(step)
        height, width = shape[:2]
        return Bucket(kind=_kind(shape), num_frames=frames_of(shape), layout=self.layout, height=height, width=width)

    def sample(self, step: int, row: int, *, after: int = 0) -> FileSample:
        """after: how many pictures of the same shape to go on by, where the one that is due cannot be read."""
        shape, indices = self._batch(step)
        among = self.pictures[shape]
        return FileSample(among[(indices[row] + after) % len(among)], shape)

    def names(self, step: int) -> list[str]:
        shape, indices = self._batch(step)
        return [self.pictures[shape][index].name for index in indices]

    def describe(self, step: int) -> str:
        return ", ".join(self.names(step))

    def _batch(self, step: int) -> tuple[Shape, list[int]]:
        epoch, place = divmod(step, self.epoch_steps)
        return self._epoch(epoch)[place]

    def _deal(self, epoch: int) -> Batches:
        rng = random.Random(f"{self.seed}/{epoch}")
        batches: Batches = []
        size = self.layout.global_batch
        for shape in self.pictures:
            drawn = draw(self.repeats[shape], rng)
            rng.shuffle(drawn)
            short = -len(drawn) % size
            drawn += (drawn * math.ceil(short / len(drawn)))[:short]
            batches += [(shape, drawn[first : first + size]) for first in range(0, len(drawn), size)]
        rng.shuffle(batches)
        return batches


def _kind(shape: Shape) -> Literal["picture", "clip"]:
    return "picture" if frames_of(shape) == 1 else "clip"


def draw(repeats: Sequence[float], rng: random.Random) -> list[int]:
    """Indices, each as often as its repeats say; of what is left over, so many that the sum is right, and at least one.

    Source: weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    drawn = [index for index, repeat in enumerate(repeats) for _ in range(int(repeat))]
    rest = [repeat - int(repeat) for repeat in repeats]
    keys = sorted(((rng.random() ** (1 / part), index) for index, part in enumerate(rest) if part), reverse=True)
    drawn += [index for _, index in keys[: round(sum(rest))]]
    return drawn or [rng.randrange(len(repeats))]
