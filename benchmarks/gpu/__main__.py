"""Hunyuan-DiT at its real size on one GPU, within four minutes: steps, pictures, memory by placement, training.

    python -m benchmarks.gpu --out gpu.json
    python -m benchmarks.gpu --tiny              every part with tiny models, on a CPU as well
    python -m benchmarks.gpu --show gpu.json     the tables of a run that was stopped

Weights are random and made on the device. What has been measured is written after every part and every row, so that
a run that is stopped leaves it; a part that would not end in time is left out and named. Whole graphs of 40 layers
take minutes to compile, so that they are measured only where there is more time, as with --seconds 420.
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
from benchmarks.command import check_json_path, quiet
from benchmarks.gpu.bench import Bench, Found, Part, run_parts
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.gpu.meter import GIB, Budget, Meter
from benchmarks.gpu.picture import measure_pictures
from benchmarks.gpu.placement import measure_placements
from benchmarks.gpu.scales import REAL, TINY, Scale
from benchmarks.gpu.steps import measure_steps, measure_whole_graphs
from benchmarks.gpu.tables import as_text
from benchmarks.gpu.training import measure_training
from dianjing.pipelines.media import write_whole

BUDGET_S = 210.0  # with importing and the end of what is under way, within four minutes
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "triton")
NEEDS_CUDA = (
    "no CUDA device: this benchmark measures a 1.5 B transformer and needs an NVIDIA GPU with about 60 GiB of memory "
    "and a PyTorch built for CUDA. --tiny tries every part with tiny models on a CPU"
)


def make_schedule(scale: Scale, *, budget_s: float = BUDGET_S) -> list[Part]:
    """The parts in their order; seconds are those of an H100, and shares grow with the time there is."""
    large, *others = scale.step_sizes_px
    parts = [
        Part(name="ceilings", needs_s=2, share_s=10, run=measure_ceilings),
        Part(name=f"step at {large} px", needs_s=15, share_s=60, run=partial(measure_steps, size_px=large)),
        *(
            Part(name=f"step at {size_px} px", needs_s=10, share_s=45, run=partial(measure_steps, size_px=size_px))
            for size_px in others
        ),
        Part(name="whole picture", needs_s=15, share_s=45, run=measure_pictures),
        Part(name="memory by placement", needs_s=10, share_s=35, run=measure_placements),
        Part(name="training step", needs_s=10, share_s=40, run=measure_training),
        Part(name="step, compiled whole", needs_s=150, share_s=180, run=partial(measure_whole_graphs, size_px=large)),
    ]
    return [replace(part, share_s=part.share_s * budget_s / BUDGET_S) for part in parts]


def find_commit() -> str | None:
    """The commit of this checkout; None where there is no git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def describe(device: torch.device) -> dict[str, Any]:
    """Machine, card and versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    card = None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        card = {
            "name": found.name, "memory_gib": found.total_memory / GIB, "multiprocessors": found.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(device)), "cuda": torch.version.cuda,
        }  # fmt: skip
    return {"machine": machine.describe(device.type), "card": card, "versions": versions}


def measure(
    scale: Scale, device: torch.device, *, budget_s: float, commit: str | None, out: Path | None
) -> dict[str, Any]:
    """Run every part that there is time for; `out` is written anew whenever something has been measured."""
    began_s = time.monotonic()
    bench = Bench(scale=scale, meter=Meter(device), budget=Budget(end_s=began_s + budget_s))
    report: dict[str, Any] = {
        "scale": scale.name, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit,
        **describe(device), "budget_s": budget_s, "took_s": 0.0, "parts": {},
    }  # fmt: skip

    def save(parts: Mapping[str, Found]) -> None:
        report.update(parts=dict(parts), took_s=time.monotonic() - began_s)
        if out is not None:
            content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
            write_whole(out, lambda file: file.write(content.encode()))

    with quiet():
        run_parts(
            make_schedule(scale, budget_s=budget_s), bench, save, lambda line: print(line, file=sys.stderr, flush=True)
        )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit codes: 0 done, 1 some part failed, 2 it cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write every number here as JSON, after every part")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help=f"time for all parts (default: {BUDGET_S:.0f})")
    parser.add_argument("--commit", help="what is measured, where there is no git to ask")
    parser.add_argument("--tiny", action="store_true", help="try every part with tiny models, on a CPU as well")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: print the tables of such a file")
    given = parser.parse_args(arguments)
    has_cuda = torch.cuda.is_available()
    try:
        if given.show is not None:
            print(as_text(json.loads(given.show.read_text(encoding="utf-8"))))
            return 0
        if not has_cuda and not given.tiny:
            raise ValueError(NEEDS_CUDA)
        if not given.seconds > 0:
            raise ValueError(f"--seconds is {given.seconds:g}; give a positive number")
        if given.out is not None:
            check_json_path(given.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = measure(
        TINY if given.tiny else REAL, torch.device("cuda" if has_cuda else "cpu"),
        budget_s=given.seconds, commit=given.commit or find_commit(), out=given.out,
    )  # fmt: skip
    print(as_text(report))
    return 1 if has_failed(report["parts"]) else 0


def has_failed(found: Any) -> bool:
    """True if anything that was found is an error."""
    return isinstance(found, Mapping) and ("error" in found or any(map(has_failed, found.values())))


if __name__ == "__main__":
    sys.exit(main())
