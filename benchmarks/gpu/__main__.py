"""Benchmark of Hunyuan-DiT at its real size on one GPU in four minutes: steps, images, placements, training.

    python -m benchmarks.gpu --out gpu.json
    python -m benchmarks.gpu --tiny              all parts with tiny models, also on a CPU
    python -m benchmarks.gpu --show gpu.json     the tables of a finished or stopped run

Weights are random and created on the device. All measurements so far are written after each of them, so that a stopped
run keeps them; a part that would not end in time is skipped and named. Full graphs of 40 layers take minutes to
compile, and are measured only with more time, such as --seconds 420.
Needs torch, diffusers, transformers, accelerate, peft, einops and tqdm; neither pydantic nor gradio nor PyAV.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.command import check_json_path, quiet_libraries
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.gpu.images import measure_images
from benchmarks.gpu.meter import GIB, Meter, TimeBudget
from benchmarks.gpu.placements import measure_placements
from benchmarks.gpu.runner import BenchmarkPart, GpuBenchmark, Results, run_parts
from benchmarks.gpu.scales import REAL_SCALE, TINY_SCALE, BenchmarkScale
from benchmarks.gpu.steps import measure_denoising_steps, measure_full_graphs
from benchmarks.gpu.tables import format_gpu_report
from benchmarks.gpu.training import measure_training
from dianjing.errors import DianjingError, get_language
from dianjing.pipelines.media.atomic import write_atomic

BUDGET_S = 210.0  # four minutes with imports and the end of the last part
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "triton")


def make_schedule(scale: BenchmarkScale, *, budget_s: float = BUDGET_S) -> list[BenchmarkPart]:
    """Return the parts in order; needed seconds are those of an H100, and shares grow with the budget."""
    large, *others = scale.step_sizes_px
    parts = [
        BenchmarkPart(name="ceilings", needs_s=2, share_s=10, run=measure_ceilings),
        BenchmarkPart(
            name=f"step at {large} px", needs_s=15, share_s=60, run=partial(measure_denoising_steps, size_px=large)
        ),
        *(
            BenchmarkPart(
                name=f"step at {size_px} px",
                needs_s=10,
                share_s=45,
                run=partial(measure_denoising_steps, size_px=size_px),
            )
            for size_px in others
        ),
        BenchmarkPart(name="image", needs_s=15, share_s=45, run=measure_images),
        BenchmarkPart(name="memory by placement", needs_s=10, share_s=35, run=measure_placements),
        BenchmarkPart(name="training step", needs_s=10, share_s=40, run=measure_training),
        BenchmarkPart(
            name="step, full graph", needs_s=150, share_s=180, run=partial(measure_full_graphs, size_px=large)
        ),
    ]
    return [replace(part, share_s=part.share_s * budget_s / BUDGET_S) for part in parts]


def find_commit() -> str | None:
    """Return the commit of this checkout, None without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        completed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() or None if completed.returncode == 0 else None


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """Return the description of the machine, the GPU and the versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    card = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card = {
            "name": properties.name,
            "memory_gib": properties.total_memory / GIB,
            "multiprocessors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(device)),
            "cuda": torch.version.cuda,
        }
    return {"machine": machine.describe_machine(device.type), "card": card, "versions": versions}


def run_gpu_benchmark(
    scale: BenchmarkScale, device: torch.device, *, budget_s: float, commit: str | None, out: Path | None
) -> dict[str, Any]:
    """Run every part within the budget and return the report; `out` is written after each measurement."""
    start_s = time.monotonic()
    benchmark = GpuBenchmark(scale=scale, meter=Meter(device), budget=TimeBudget(end_s=start_s + budget_s))
    report: dict[str, Any] = {
        "scale": scale.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        **describe_gpu(device),
        "budget_s": budget_s,
        "elapsed_s": 0.0,
        "parts": {},
    }

    def save(parts: Mapping[str, Results]) -> None:
        report.update(parts=dict(parts), elapsed_s=time.monotonic() - start_s)
        if out is not None:
            content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
            write_atomic(out, lambda file: file.write(content.encode()))

    with quiet_libraries():
        run_parts(
            make_schedule(scale, budget_s=budget_s),
            benchmark,
            save,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes: 0 done, 1 a part failed, 2 wrong options or no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write all numbers to this file as JSON, after every measurement")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help=f"time for all parts (default: {BUDGET_S:.0f})")
    parser.add_argument("--commit", help="commit that is measured, for a machine without git")
    parser.add_argument("--tiny", action="store_true", help="run all parts with tiny models, also on a CPU")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the tables of this file")
    arguments = parser.parse_args(argv)
    has_cuda = torch.cuda.is_available()
    try:
        if arguments.show is not None:
            print(format_gpu_report(read_report(arguments.show)))
            return 0
        if not has_cuda and not arguments.tiny:
            raise DianjingError("gpu_benchmark_needs_cuda")
        if not arguments.seconds > 0:
            raise DianjingError("budget_not_positive", value=arguments.seconds)
        if arguments.out is not None:
            check_json_path(arguments.out)
    except DianjingError as error:
        print(f"error: {error.render(get_language())}", file=sys.stderr)
        return 2
    report = run_gpu_benchmark(
        TINY_SCALE if arguments.tiny else REAL_SCALE,
        torch.device("cuda" if has_cuda else "cpu"),
        budget_s=arguments.seconds,
        commit=arguments.commit or find_commit(),
        out=arguments.out,
    )
    print(format_gpu_report(report))
    return 1 if has_failed(report["parts"]) else 0


def read_report(path: Path) -> dict[str, Any]:
    """Read the JSON of a run. Raises: DianjingError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DianjingError("report_unreadable", path=path, reason=error) from None


def has_failed(results: Any) -> bool:
    """Return True if any of the results is an error."""
    return isinstance(results, Mapping) and ("error" in results or any(map(has_failed, results.values())))


if __name__ == "__main__":
    sys.exit(main())
