"""State that the parts of the GPU benchmark share, and the runner, which runs them in order within a time budget."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel

from benchmarks.gpu.meter import Meter, TimeBudget
from benchmarks.gpu.models import compile_blocks, make_random_transformer, share_with_diffusers_model, share_with_dit
from benchmarks.gpu.scales import BenchmarkScale
from dianjing.dit import DiT

Results = dict[str, Any]  # measurements of a part so far, as values for JSON
MIN_ROUNDS = 3
COMPILE_S = 25.0  # that must remain before blocks are compiled
SKIPPED = {"skipped": "the time was over"}


@dataclass(frozen=True, kw_only=True)
class Transformers:
    """Four modules over the tensors of one model: both implementations, eager and with compiled blocks."""

    diffusers: HunyuanDiT2DModel
    diffusers_compiled: HunyuanDiT2DModel  # q/k/v fused
    dianjing: DiT
    dianjing_compiled: DiT


@dataclass(kw_only=True)
class GpuBenchmark:
    """One run. rates: results of the part "ceilings", FLOP/s and bytes/s."""

    scale: BenchmarkScale
    meter: Meter
    budget: TimeBudget
    rates: dict[str, float] = field(default_factory=dict)
    _transformers: Transformers | None = None

    @property
    def device(self) -> torch.device:
        return self.meter.device

    @property
    def transformers(self) -> Transformers:
        """The transformers, made at the first use and kept until `release`."""
        if self._transformers is None:
            model = make_random_transformer(self.scale, self.device)
            fused = share_with_diffusers_model(model)
            fused.fuse_qkv_projections()
            self._transformers = Transformers(
                diffusers=model,
                diffusers_compiled=compile_blocks(fused, self.scale),
                dianjing=share_with_dit(model),
                dianjing_compiled=compile_blocks(share_with_dit(model), self.scale),
            )
        return self._transformers

    def release(self) -> None:
        """Free the memory of the transformers."""
        self._transformers = None
        torch.compiler.reset()  # compiled code holds references to its model
        self.meter.clear()

    def get_min_s(self, flops: float) -> float | None:
        """Return the minimum time of so many operations at the rate of a large matrix product; None if not measured."""
        rate = self.rates.get("matrix_flops_per_s")
        return flops / rate if rate else None


@dataclass(frozen=True, kw_only=True)
class BenchmarkPart:
    """One part of the run.

    share_s: its share of the time. needs_s: it starts only if so much time remains. run: yields all results so far,
    after each measurement.
    """

    name: str
    needs_s: float
    share_s: float
    run: Callable[[GpuBenchmark, TimeBudget], Iterator[Results]]


def run_parts(
    parts: Sequence[BenchmarkPart],
    benchmark: GpuBenchmark,
    save: Callable[[Mapping[str, Results]], None],
    report_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Results]:
    """Run the parts in order; a failure ends only its part. save: called with all results after each measurement."""
    results: dict[str, Results] = {}
    for part in parts:
        if not benchmark.budget.has(part.needs_s):
            remaining_s = max(benchmark.budget.remaining_s, 0.0)
            results[part.name] = {"skipped": f"needs {part.needs_s:.0f} s, and {remaining_s:.0f} s remained"}
            save(results)
            report_progress(f"{part.name}: skipped")
            continue
        report_progress(f"{part.name} ...")
        start_s = benchmark.budget.now()
        results[part.name] = {"unfinished": True}
        try:
            for partial_results in part.run(benchmark, benchmark.budget.share(part.share_s)):
                results[part.name] = {**partial_results, "unfinished": True}
                save(results)
            results[part.name].pop("unfinished")
        except Exception as error:
            results[part.name] |= describe_failure(error)
        results[part.name]["elapsed_s"] = benchmark.budget.now() - start_s
        save(results)
        report_progress(f"{part.name}: {results[part.name]['elapsed_s']:.0f} s")
        with suppress(RuntimeError):  # a failed device fails at everything; the results are saved
            benchmark.meter.clear()
    return results


def describe_failure(error: Exception) -> Results:
    """Describe an error without its frames, which would keep tensors alive; a lack of memory is not an error."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"skipped": f"out of memory: {error}"[:500]}
    return {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc()[-4000:]}
