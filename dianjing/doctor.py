"""`dianjing doctor` and `dianjing models`: what is here, what works, what to do about the rest."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dianjing
from dianjing.weights import registry
from dianjing.weights.fetching import local_folder
from dianjing.weights.folder import WeightsError, read_components
from dianjing.weights.sums import check_sums

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "typer")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; `state` is ok, note (works, could be better) or broken."""

    state: str
    what: str
    detail: str


def ok(what: str, detail: str) -> Finding:
    return Finding(state="ok", what=what, detail=detail)


def note(what: str, detail: str) -> Finding:
    return Finding(state="note", what=what, detail=detail)


def broken(what: str, detail: str) -> Finding:
    return Finding(state="broken", what=what, detail=detail)


def examine() -> list[Finding]:
    return [*_versions(), *_machine(), *_devices(), *_bundles(), *_places()]


def _versions() -> Iterator[Finding]:
    yield ok("dianjing", f"{dianjing.__version__}, Python {platform.python_version()}, {sys.platform}")
    for name in LIBRARIES:
        try:
            yield ok(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield broken(name, f"is not installed; run: pip install {name}")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {total / 2**30:.0f} GiB of memory"
    yield ok("machine", f"{platform.machine()}, {cores} CPU cores{memory}")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield broken("device", f"PyTorch does not load: {error}")
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield ok(f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield ok("mps", "Apple GPU")
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        yield note(
            "device",
            "this machine has an NVIDIA GPU but PyTorch is a CPU build; reinstall PyTorch's default build to use it",
        )
    else:
        yield ok("device", f"cpu ({torch.backends.cpu.get_cpu_capability()}), no GPU")
    has_xformers = importlib.util.find_spec("xformers") is not None
    yield ok("attention", "sdpa, xformers" if has_xformers else "sdpa (pip install 'dianjing[xformers]' adds xformers)")


def _bundles() -> Iterator[Finding]:
    for entry in registry.ENTRIES:
        if entry.source == registry.EMBEDDED:
            yield _bundle(entry.name)


def _bundle(name: str) -> Finding:
    try:
        folder = local_folder(name)
        assert folder is not None
        read_components(folder)
        faults = check_sums(folder)
    except (WeightsError, OSError) as error:
        return broken(name, str(error))
    if faults:
        return broken(name, f"{'; '.join(faults)}; install the package again")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ok(name, f"embedded, {size / 1e6:.1f} MB, every file as published")


def _places() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    place = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path())
    free = f"{shutil.disk_usage(place).free / 1e9:.0f} GB free"
    if os.access(place, os.W_OK):
        yield ok("model cache", f"{cache}, {free}")
    else:
        yield note("model cache", f"{cache} is read-only; set HF_HOME to a folder of yours to download models")
    if os.access(".", os.W_OK):
        yield ok("this folder", f"{Path.cwd()} can be written")
    else:
        yield note("this folder", f"{Path.cwd()} is read-only; give `dianjing image` an --out elsewhere")


def model_rows() -> list[dict[str, Any]]:
    """One row per registry entry."""
    return [
        {
            "name": entry.name,
            "where": _where(entry),
            "source": entry.source,
            "revision": entry.revision,
            "licence": entry.licence,
            "download_bytes": entry.download_bytes,
            "summary": entry.summary,
        }
        for entry in registry.ENTRIES
    ]


def _where(entry: registry.Entry) -> str:
    if entry.folder is not None:
        return "embedded" if (entry.folder / "model_index.json").is_file() else "missing"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(entry.source, "model_index.json", revision=entry.revision)
    return "cached" if isinstance(cached, str) else f"{entry.download_bytes / 1e9:.1f} GB"
