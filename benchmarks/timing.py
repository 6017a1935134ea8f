"""Contenders take turns, so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What some measurements have in common, and how far apart they are."""

    median: float
    low: float
    quartile_1: float
    quartile_3: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return Spread(
        median=middle, low=min(values), quartile_1=first, quartile_3=third, high=max(values), count=len(values)
    )


def ratios(theirs_s: Sequence[float], ours_s: Sequence[float], *, ours_besides_s: float = 0.0) -> list[float]:
    """How many times as long theirs took, pair by pair; `ours_besides_s` is added to each of ours."""
    return [theirs / (ours + ours_besides_s) for theirs, ours in zip(theirs_s, ours_s, strict=True)]


def make_clock(device: torch.device) -> Clock:
    """Seconds from some start; a GPU finishes its work first."""

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def timed(work: Callable[[], T], clock: Clock) -> tuple[float, T]:
    """Seconds, and what came of it."""
    began = clock()
    result = work()
    return clock() - began, result


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Seconds of each turn of each contender, and where each first came to at the end of its walk."""

    seconds: dict[str, list[float]]
    ends: dict[str, torch.Tensor]


def take_turns(
    walks: Mapping[str, Callable[[], Iterator[torch.Tensor]]],
    *,
    steps: int,
    turns: int,
    clock: Clock,
    after_turn: Callable[[], object] = lambda: None,
) -> Turns:
    """One step each, A B C A B C, for `turns` rounds; every `steps` rounds all start anew, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in walks}
    ends: dict[str, torch.Tensor] = {}
    under_way: dict[str, Iterator[torch.Tensor]] = {}
    for turn in range(turns):
        if turn % steps == 0:
            under_way = {name: walk() for name, walk in walks.items()}
        for name, walk in under_way.items():
            took_s, latents = timed(walk.__next__, clock)
            seconds[name].append(took_s)
            if turn == steps - 1:
                ends[name] = latents
        after_turn()
    return Turns(seconds=seconds, ends=ends)
