"""Time and memory of a device: events and allocator statistics of a GPU, the wall clock on a CPU."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
GIB = 2**30


class Meter:
    """Measures work on one device.

    module: `torch.cuda` or another with the same functions; None for a CPU, which has no memory statistics.
    """

    def __init__(self, device: torch.device, module: ModuleType | Any | None = None) -> None:
        self.device = device
        self.module = module if module is not None or device.type == "cpu" else torch.get_device_module(device)

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""
        if self.module is not None:
            self.module.synchronize()

    def clock(self) -> float:
        """Return the wall clock in seconds after the device has finished all its work."""
        self.synchronize()
        return time.perf_counter()

    def time(self, work: Callable[[], T]) -> tuple[float, T]:
        """Run work on the idle device; return the seconds between events before and after it, and its result."""
        if self.module is None:
            start_s = time.perf_counter()
            result = work()
            return time.perf_counter() - start_s, result
        self.module.synchronize()
        start, end = (self.module.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000, result

    def clear(self) -> None:
        """Return unused cached memory to the device, and reset the peak."""
        gc.collect()
        if self.module is not None:
            self.module.synchronize()
            self.module.empty_cache()
            self.module.reset_peak_memory_stats()

    def memory(self) -> dict[str, float | None]:
        """Return the GiB allocated now, and the peaks of allocated and reserved memory since `clear`; None on a CPU."""
        if self.module is None:
            return {"allocated_gib": None, "peak_allocated_gib": None, "peak_reserved_gib": None}
        return {
            "allocated_gib": self.module.memory_allocated() / GIB,
            "peak_allocated_gib": self.module.max_memory_allocated() / GIB,
            "peak_reserved_gib": self.module.max_memory_reserved() / GIB,
        }


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """Time that remains until `end_s` of a clock."""

    end_s: float
    now: Callable[[], float] = time.monotonic

    @property
    def remaining_s(self) -> float:
        return self.end_s - self.now()

    def share(self, seconds: float) -> "TimeBudget":
        """Return a budget of at most `seconds` from now, within this one."""
        return TimeBudget(end_s=min(self.end_s, self.now() + seconds), now=self.now)

    def has(self, seconds: float) -> bool:
        """Return True if so much time remains."""
        return self.remaining_s >= seconds
