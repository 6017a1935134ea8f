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
class Quantiles:
    """What some measurements have in common, and how far apart they are."""

    median: float
    min: float
    quartile_1: float
    quartile_3: float
    max: float
    count: int


def compute_quantiles(values: Sequence[float]) -> Quantiles:
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return Quantiles(
        median=middle, min=min(values), quartile_1=first, quartile_3=third, max=max(values), count=len(values)
    )


def compute_ratios(
    numerator_s: Sequence[float], denominator_s: Sequence[float], *, denominator_extra_s: float = 0.0
) -> list[float]:
    """How many times as long theirs took, pair by pair; `ours_besides_s` is added to each of ours."""
    return [theirs / (ours + denominator_extra_s) for theirs, ours in zip(numerator_s, denominator_s, strict=True)]


def make_clock(device: torch.device) -> Clock:
    """Seconds from some start; a GPU finishes its work first."""

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def time_call(function: Callable[[], T], clock: Clock) -> tuple[float, T]:
    """Seconds, and what came of it."""
    began = clock()
    result = function()
    return clock() - began, result


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of each turn of each contender, and where each first came to at the end of its walk."""

    seconds: dict[str, list[float]]
    final_latents: dict[str, torch.Tensor]


def time_interleaved(
    runs: Mapping[str, Callable[[], Iterator[torch.Tensor]]],
    *,
    num_inference_steps: int,
    num_rounds: int,
    clock: Clock,
    on_round_end: Callable[[], object] = lambda: None,
) -> StepTimes:
    """One step each, A B C A B C, for `turns` rounds; every `steps` rounds all start anew, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    ends: dict[str, torch.Tensor] = {}
    under_way: dict[str, Iterator[torch.Tensor]] = {}
    for turn in range(num_rounds):
        if turn % num_inference_steps == 0:
            under_way = {name: walk() for name, walk in runs.items()}
        for name, walk in under_way.items():
            took_s, latents = time_call(walk.__next__, clock)
            seconds[name].append(took_s)
            if turn == num_inference_steps - 1:
                ends[name] = latents
        on_round_end()
    return StepTimes(seconds=seconds, final_latents=ends)
