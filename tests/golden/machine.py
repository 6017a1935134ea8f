"""Put a process into one fixed numerical state, and describe the machine that results were made on."""

import os
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend

PACKAGES = ("torch", "numpy", "opencv-python-headless", "diffusers", "transformers", "peft", "pillow")


@contextmanager
def settled() -> Iterator[None]:
    """One thread, the CPU, fixed global seeds and torch's own defaults, whatever ran in this process before."""
    threads, threads_cv, precision = torch.get_num_threads(), cv2.getNumThreads(), torch.get_float32_matmul_precision()
    use_cpu = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)  # GrabCut draws from OpenCV's global generator
    try:
        with attention_backend("native"):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(False)
        cv2.setNumThreads(threads_cv)
        os.environ.pop("ACCELERATE_USE_CPU")
        if use_cpu is not None:
            os.environ["ACCELERATE_USE_CPU"] = use_cpu


def fingerprint() -> dict[str, str]:
    """What decides the last bit: CPU model and instruction set, thread count, versions of the numerical libraries.

    Call it inside `settled`.
    """
    return {
        "cpu": _cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        **{package: version(package) for package in PACKAGES},
    }


def _cpu_model() -> str:
    """Name, family, model and stepping on Linux; what Python knows elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    return ", ".join(facts.get(key, "?") for key in ("model name", "cpu family", "model", "stepping"))
