"""Shared state of the benchmark's parts, and the runner that runs them one after the other within the time."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel

from benchmarks.gpu.meter import Budget, Meter
from benchmarks.gpu.models import compile_blocks, make_theirs, our_copy, their_copy
from benchmarks.gpu.scales import Scale
from dianjing.dit import DiT

Found = dict[str, Any]  # what a part has measured so far, as it goes into JSON
MIN_ROUNDS = 3
COMPILE_S = 25.0  # that must be left when a model's blocks are compiled
LEFT_OUT = {"left_out": "the time was over"}


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """Four modules over the tensors of one: both models as they come, and both with compiled blocks."""

    theirs: HunyuanDiT2DModel
    theirs_compiled: HunyuanDiT2DModel  # q/k/v fused
    ours: DiT
    ours_compiled: DiT


@dataclass(kw_only=True)
class Bench:
    """One run; `rates` are what the ceilings part measured: FLOP/s and bytes/s."""

    scale: Scale
    meter: Meter
    budget: Budget
    rates: dict[str, float] = field(default_factory=dict)
    _transformers: Transformers | None = None

    @property
    def device(self) -> torch.device:
        return self.meter.device

    @property
    def transformers(self) -> Transformers:
        """Made when first asked for, kept until `release`."""
        if self._transformers is None:
            theirs = make_theirs(self.scale, self.device)
            fused = their_copy(theirs)
            fused.fuse_qkv_projections()
            self._transformers = Transformers(
                theirs=theirs,
                theirs_compiled=compile_blocks(fused, self.scale),
                ours=our_copy(theirs),
                ours_compiled=compile_blocks(our_copy(theirs), self.scale),
            )
        return self._transformers

    def release(self) -> None:
        """Give the memory of the transformers back."""
        self._transformers = None
        torch.compiler.reset()  # compiled code keeps what it was compiled with
        self.meter.clear()

    def floor_s(self, flops: float) -> float | None:
        """The least time for so many operations, at the rate of a large matrix product."""
        rate = self.rates.get("matrix_flops_per_s")
        return flops / rate if rate else None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the run.

    It may take `share_s` of the time, begins only while `needs_s` are left, and yields what it has found so far:
    each time all of it, the last time the whole.
    """

    name: str
    needs_s: float
    share_s: float
    run: Callable[[Bench, Budget], Iterator[Found]]


def run_parts(
    parts: Sequence[Part],
    bench: Bench,
    save: Callable[[Mapping[str, Found]], None],
    report_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Found]:
    """Run one part after the other; a failure ends that part alone. `save` is called with all that was found."""
    found: dict[str, Found] = {}
    for part in parts:
        if not bench.budget.has(part.needs_s):
            left_s = max(bench.budget.remaining_s, 0.0)
            found[part.name] = {"left_out": f"needs {part.needs_s:.0f} s, and {left_s:.0f} s were left"}
            save(found)
            report_progress(f"{part.name}: left out")
            continue
        report_progress(f"{part.name} ...")
        began_s = bench.budget.now()
        found[part.name] = {"unfinished": True}
        try:
            for so_far in part.run(bench, bench.budget.share(part.share_s)):
                found[part.name] = {**so_far, "unfinished": True}
                save(found)
            found[part.name].pop("unfinished")
        except Exception as error:
            found[part.name] |= failure(error)
        found[part.name]["took_s"] = bench.budget.now() - began_s
        save(found)
        report_progress(f"{part.name}: {found[part.name]['took_s']:.0f} s")
        with suppress(RuntimeError):  # a device that has failed once fails at everything; what was found is saved
            bench.meter.clear()
    return found


def failure(error: Exception) -> Found:
    """Describe an error without its frames, which would keep their tensors; too little memory is no error."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"left_out": f"out of memory: {error}"[:500]}
    return {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc()[-4000:]}
