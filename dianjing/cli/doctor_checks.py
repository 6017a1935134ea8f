"""Checks of `dianjing doctor`: libraries, machine, devices, bundled weights and folders."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dianjing
from dianjing.weights import registry
from dianjing.weights.checksums import verify_checksums
from dianjing.weights.manifest import WeightsError, read_components
from dianjing.weights.resolve import resolve_local_model

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "typer")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One line of the report; `status` is "ok", "warning" (works, but could be better) or "error"."""

    status: str
    name: str
    detail: str


def report_ok(name: str, detail: str) -> CheckResult:
    return CheckResult(status="ok", name=name, detail=detail)


def report_warning(name: str, detail: str) -> CheckResult:
    return CheckResult(status="warning", name=name, detail=detail)


def report_error(name: str, detail: str) -> CheckResult:
    return CheckResult(status="error", name=name, detail=detail)


def run_checks() -> list[CheckResult]:
    """Run all checks and return their results in the order of the report."""
    return [*_check_libraries(), *_check_machine(), *_check_devices(), *_check_bundles(), *_check_folders()]


def _check_libraries() -> Iterator[CheckResult]:
    yield report_ok("dianjing", f"{dianjing.__version__}, Python {platform.python_version()}, {sys.platform}")
    for name in LIBRARIES:
        try:
            yield report_ok(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield report_error(name, f"is not installed; run: pip install {name}")


def _check_machine() -> Iterator[CheckResult]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {total / 2**30:.0f} GiB of memory"
    yield report_ok("machine", f"{platform.machine()}, {cores} CPU cores{memory}")


def _check_devices() -> Iterator[CheckResult]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield report_error("device", f"PyTorch does not load: {error}")
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield report_ok(f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield report_ok("mps", "Apple GPU")
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        yield report_warning(
            "device",
            "this machine has an NVIDIA GPU but PyTorch is a CPU build; reinstall PyTorch's default build to use it",
        )
    else:
        yield report_ok("device", f"cpu ({torch.backends.cpu.get_cpu_capability()}), no GPU")
    has_xformers = importlib.util.find_spec("xformers") is not None
    yield report_ok(
        "attention", "sdpa, xformers" if has_xformers else "sdpa (pip install 'dianjing[xformers]' adds xformers)"
    )


def _check_bundles() -> Iterator[CheckResult]:
    for model in registry.MODELS:
        if model.bundled_folder is not None:
            yield _check_bundle(model.name)


def _check_bundle(name: str) -> CheckResult:
    try:
        folder = resolve_local_model(name)
        assert folder is not None
        read_components(folder)
        differences = verify_checksums(folder)
    except (WeightsError, OSError) as error:
        return report_error(name, str(error))
    if differences:
        return report_error(name, f"{'; '.join(differences)}; install the package again")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return report_ok(name, f"bundled, {size / 1e6:.1f} MB, all checksums match")


def _check_folders() -> Iterator[CheckResult]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    existing = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path())
    free = f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    if os.access(existing, os.W_OK):
        yield report_ok("model cache", f"{cache}, {free}")
    else:
        yield report_warning(
            "model cache", f"{cache} is read-only; set HF_HOME to a writable folder to download models"
        )
    if os.access(".", os.W_OK):
        yield report_ok("working directory", f"{Path.cwd()} is writable")
    else:
        yield report_warning("working directory", f"{Path.cwd()} is read-only; choose another folder with --out")
