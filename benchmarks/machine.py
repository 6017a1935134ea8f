"""Description of the machine of a measurement: hardware and versions, without its name."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "diffusers", "transformers")
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # that matter for speed
BUSY_LOAD_PER_CORE = 0.3  # load average a core


def describe_machine(device: str) -> dict[str, Any]:
    """Return processor, CPU features, cores, threads, load, device, system and versions."""
    info = _read_cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": info.get("model name", platform.processor() or platform.machine()),
        "features": [name for name in CPU_FEATURES if name in flags],
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Return True if other work on the machine disturbs measurements."""
    return machine["load"] is not None and machine["load"] > BUSY_LOAD_PER_CORE * machine["cores"]


def summarize_machine(machine: dict[str, Any]) -> str:
    """Return the description as one line."""
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    amx = "with AMX, " if "amx_bf16" in machine["features"] else ""
    cores = f"{machine['cores']} cores of {machine['processor']}, {amx}{machine['threads']} threads"
    versions = ", ".join(f"{name} {machine[name]}" for name in LIBRARIES[:2])
    return f"{device}{cores}, {versions}"


def _read_cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
