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
from unicodedata import east_asian_width

import dianjing
from dianjing.errors import DianjingError, Language, Message
from dianjing.weights import registry
from dianjing.weights.checksums import verify_checksums
from dianjing.weights.manifest import WeightsError, read_components
from dianjing.weights.resolve import resolve_local_model

STATUSES = {"ok": Message("check_ok"), "warning": Message("check_warning"), "error": Message("check_error")}
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "typer")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One line of the report; `status` is "ok", "warning" (works, but could be better) or "error"."""

    status: str
    name: Message | str
    detail: Message | DianjingError | str


def report_ok(name: Message | str, detail: Message | str) -> CheckResult:
    return CheckResult(status="ok", name=name, detail=detail)


def report_warning(name: Message | str, detail: Message) -> CheckResult:
    return CheckResult(status="warning", name=name, detail=detail)


def report_error(name: Message | str, detail: Message | DianjingError | str) -> CheckResult:
    return CheckResult(status="error", name=name, detail=detail)


def format_check(result: CheckResult, language: Language) -> str:
    """A line of the report: status, name and detail in columns."""
    status = STATUSES[result.status].render(language)
    name = result.name.render(language) if isinstance(result.name, Message) else result.name
    detail = result.detail if isinstance(result.detail, str) else result.detail.render(language)
    return f"{_pad(status, 8)}{_pad(name, 20)}{detail}"


def _pad(text: str, width: int) -> str:
    """Fill a column with blanks; a Chinese character is two columns wide."""
    return text + " " * (width - sum(2 if east_asian_width(char) in "WF" else 1 for char in text))


def run_checks() -> list[CheckResult]:
    """Run all checks and return their results in the order of the report."""
    return [*_check_libraries(), *_check_machine(), *_check_devices(), *_check_bundles(), *_check_folders()]


def _check_libraries() -> Iterator[CheckResult]:
    yield report_ok("dianjing", f"{dianjing.__version__}, Python {platform.python_version()}, {sys.platform}")
    for name in LIBRARIES:
        try:
            yield report_ok(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield report_error(name, Message("library_not_installed", name=name))


def _check_machine() -> Iterator[CheckResult]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    has_memory_size = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if has_memory_size else None
    memory = "?" if total is None else f"{total:.0f}"
    yield report_ok(
        Message("check_machine"), Message("machine_found", machine=platform.machine(), cores=cores, memory_gib=memory)
    )


def _check_devices() -> Iterator[CheckResult]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield report_error(Message("check_device"), Message("torch_not_loading", reason=str(error)))
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield report_ok(f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield report_ok("mps", Message("device_apple"))
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        yield report_warning(Message("check_device"), Message("torch_without_cuda"))
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        yield report_ok(Message("check_device"), Message("device_cpu", capability=capability))
    has_xformers = importlib.util.find_spec("xformers") is not None
    yield report_ok(Message("check_attention"), "sdpa, xformers" if has_xformers else Message("attention_sdpa"))


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
        return report_error(name, error if isinstance(error, WeightsError) else str(error))
    if differences:
        return report_error(name, Message("bundle_damaged", differences="; ".join(differences)))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return report_ok(name, Message("bundle_intact", size_mb=f"{size / 1e6:.1f}"))


def _check_folders() -> Iterator[CheckResult]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    existing = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path())
    free_gb = f"{shutil.disk_usage(existing).free / 1e9:.0f}"
    if os.access(existing, os.W_OK):
        yield report_ok(Message("check_model_cache"), Message("model_cache_free", path=cache, free_gb=free_gb))
    else:
        yield report_warning(Message("check_model_cache"), Message("model_cache_read_only", path=cache))
    if os.access(".", os.W_OK):
        yield report_ok(Message("check_working_directory"), Message("working_directory_writable", path=Path.cwd()))
    else:
        yield report_warning(
            Message("check_working_directory"), Message("working_directory_read_only", path=Path.cwd())
        )
