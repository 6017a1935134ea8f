"""`dianjing bench`: what is asked for is checked, measured and shown."""

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
from dianjing.pipelines.media.atomic import check_writable_folder, write_atomic
from dianjing.pipelines.validation import check_int

MIN_PAIRS, MAX_PAIRS = 5, 1000
DTYPES = ("bfloat16", "float16", "float32")


def check_models(models: str) -> list[str]:
    """The names in "sticker,middle"."""
    names = [name.strip() for name in models.split(",")]
    wrong = [name for name in names if name not in MODEL_SIZES]
    if wrong:
        raise ValueError(f"--models names {wrong[0]!r}; give some of {','.join(MODEL_SIZES)}, with commas between")
    return list(dict.fromkeys(names))


def check_settings(*, pairs: int, dtype: str, device: str, with_compile: bool) -> BenchmarkSettings:
    """Raises: ValueError for what cannot be measured here."""
    check_int(pairs, "--pairs", low=MIN_PAIRS, high=MAX_PAIRS)
    if dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"--device is {device!r}; give cpu, or cuda where there is an NVIDIA GPU")
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if with_compile and device == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise ValueError("--compile needs a C++ compiler, and none is here; install g++, or leave the option out")
    return BenchmarkSettings(pairs=pairs, dtype=dtype, device=device, compile=with_compile)


def check_json_path(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"--json is the folder {path}; give a file in it")
    check_writable_folder(path.parent)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without diffusers' warning at every cast to another dtype, and with no progress bar but ours."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()


def run_benchmarks(sizes: Sequence[ModelSize], settings: BenchmarkSettings, *, bundle: Path | None) -> BenchmarkReport:
    """Measure; whole pictures too where the sticker model is asked for and its bundle is given."""
    found = machine.describe_machine(settings.device)
    if machine.is_busy(found):
        print(
            f"this machine is busy (load {found['load']}, {found['cores']} cores): times will be longer than they "
            "are, and ratios less certain",
            file=sys.stderr,
        )
    measured, pictures = [], None
    with quiet_libraries(), torch.no_grad(), tqdm(disable=None, unit="pair", dynamic_ncols=True) as progress:
        for size in sizes:
            measured.append(compare_implementations(size, settings, progress=progress))
            if size.name == "sticker" and bundle is not None:
                pictures = compare_pipelines(
                    size, lambda: TextToImagePipeline.from_pretrained(bundle), settings, progress=progress
                )
    return BenchmarkReport(settings=settings, machine=found, sizes=measured, images=pictures)


def run_bench(
    *, models: str, pairs: int, dtype: str, device: str, with_compile: bool, json_path: Path | None, markdown: bool
) -> None:
    """The whole command.

    Raises: ValueError for what is wrong with it, before anything is computed.
    """
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
