"""Interleaved timing, so that other load on the machine affects all implementations alike; quantiles and ratios."""

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
    """Summary of repeated measurements."""

    median: float
    min: float
    quartile_1: float
    quartile_3: float
    max: float
    count: int


def compute_quantiles(values: Sequence[float]) -> Quantiles:
    """Return the quantiles of one or more values."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return Quantiles(
        median=median, min=min(values), quartile_1=first, quartile_3=third, max=max(values), count=len(values)
    )


def compute_ratios(
    numerator_s: Sequence[float], denominator_s: Sequence[float], *, denominator_extra_s: float = 0.0
) -> list[float]:
    """Return numerator / (denominator + extra) pair by pair."""
    return [above / (below + denominator_extra_s) for above, below in zip(numerator_s, denominator_s, strict=True)]


def make_clock(device: torch.device) -> Clock:
    """Return a clock in seconds that waits for the device's pending work."""

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def time_call(function: Callable[[], T], clock: Clock) -> tuple[float, T]:
    """Call a function; return the seconds and its result."""
    start_s = clock()
    result = function()
    return clock() - start_s, result


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of each step of each implementation, and the final latents of its first run."""

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
    """Time one step of each implementation in turn, A B C A B C, for `num_rounds` rounds.

    All start a new run, untimed, every `num_inference_steps` rounds. on_round_end: called after each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    final_latents: dict[str, torch.Tensor] = {}
    running: dict[str, Iterator[torch.Tensor]] = {}
    for round_index in range(num_rounds):
        if round_index % num_inference_steps == 0:
            running = {name: start() for name, start in runs.items()}
        for name, run in running.items():
            elapsed_s, latents = time_call(run.__next__, clock)
            seconds[name].append(elapsed_s)
            if round_index == num_inference_steps - 1:
                final_latents[name] = latents
        on_round_end()
    return StepTimes(seconds=seconds, final_latents=final_latents)
