"""Work of `dianjing bench`: check the options, measure, print the report."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from benchmarks import machine
from benchmarks.comparison import BenchmarkSettings, compare_implementations
from benchmarks.images import compare_pipelines
from benchmarks.model_sizes import MODEL_SIZES, ModelSize, find_sticker_bundle
from benchmarks.report import (
    BenchmarkReport,
    format_markdown_table,
    format_plain_table,
    format_report,
    serialize_report,
)
from dianjing import TextToImagePipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import check_writable_folder, write_atomic
from dianjing.pipelines.validation import check_int

MIN_PAIRS, MAX_PAIRS = 5, 1000
DTYPES = ("bfloat16", "float16", "float32")


def check_models(models: str) -> list[str]:
    """Split "sticker,medium" into names of MODEL_SIZES. Raises: DianjingError."""
    names = [name.strip() for name in models.split(",")]
    unknown = [name for name in names if name not in MODEL_SIZES]
    if unknown:
        raise DianjingError("bench_model_unknown", name=repr(unknown[0]), allowed=",".join(MODEL_SIZES))
    return list(dict.fromkeys(names))


def check_settings(*, pairs: int, dtype: str, device: str, with_compile: bool) -> BenchmarkSettings:
    """Check the options against this machine. Raises: DianjingError."""
    check_int(pairs, "--pairs", low=MIN_PAIRS, high=MAX_PAIRS)
    if dtype not in DTYPES:
        raise DianjingError("bench_dtype_unknown", value=repr(dtype), allowed=DTYPES)
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise DianjingError("bench_device_not_available", value=repr(device))
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if with_compile and device == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise DianjingError("compiler_not_found")
    return BenchmarkSettings(pairs=pairs, dtype=dtype, device=device, compile=with_compile)


def check_json_path(path: Path) -> None:
    if path.is_dir():
        raise DianjingError("json_path_is_a_folder", path=path)
    check_writable_folder(path.parent)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the warnings and progress bars of diffusers and transformers."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()


def run_benchmarks(sizes: Sequence[ModelSize], settings: BenchmarkSettings, *, bundle: Path | None) -> BenchmarkReport:
    """Measure the sizes; with size "sticker" and its bundle, also complete pipelines."""
    description = machine.describe_machine(settings.device)
    if machine.is_busy(description):
        print(
            f"this machine is busy (load {description['load']}, {description['cores']} cores): times come out too "
            "long, and ratios less certain",
            file=sys.stderr,
        )
    results, pipeline_comparison = [], None
    with quiet_libraries(), torch.no_grad(), tqdm(disable=None, unit="pair", dynamic_ncols=True) as progress:
        for size in sizes:
            results.append(compare_implementations(size, settings, progress=progress))
            if size.name == "sticker" and bundle is not None:
                pipeline_comparison = compare_pipelines(
                    size, lambda: TextToImagePipeline.from_pretrained(bundle), settings, progress=progress
                )
    return BenchmarkReport(settings=settings, machine=description, sizes=results, images=pipeline_comparison)


def run_bench(
    *, models: str, pairs: int, dtype: str, device: str, with_compile: bool, json_path: Path | None, markdown: bool
) -> None:
    """Run the command. Raises: DianjingError for a wrong option, before anything is computed."""
    names = check_models(models)
    settings = check_settings(pairs=pairs, dtype=dtype, device=device, with_compile=with_compile)
    if json_path is not None:
        check_json_path(json_path)
    report = run_benchmarks([MODEL_SIZES[name]() for name in names], settings, bundle=find_sticker_bundle())
    text = format_report(
        report,
        machine.summarize_machine(report.machine),
        format_table=format_markdown_table if markdown else format_plain_table,
    )
    print(text)
    if json_path is not None:
        content = json.dumps(serialize_report(report), indent=1, ensure_ascii=False) + "\n"
        write_atomic(json_path, lambda file: file.write(content.encode()))
