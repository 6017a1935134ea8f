"""Checks of devices, dtypes and adapters, and the loading of pipelines, shared by the commands."""

import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dianjing
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.few_steps import should_use_few_steps
from dianjing.pipelines.guiders import make_guider, parse_guidance_mode
from dianjing.pipelines.named_adapters import NamedAdapter, load_adapters
from dianjing.pipelines.named_choice import parse_choice
from dianjing.weights.adapter_sampling import DEFAULT_ADAPTER_KEY
from dianjing.weights.manifest import read_config_json
from dianjing.weights.resolve import HUB_ID_PATTERN


def check_device(name: str) -> None:
    """Check the form of a device's name, without torch. Raises: DianjingError."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise DianjingError("option_device_unknown", value=repr(name))


def check_model_path(name_or_path: str, option: str) -> None:
    """Check that a path is a folder, or else has the form of a Hub id. Raises: DianjingError."""
    path = Path(name_or_path)
    if not path.is_dir() and (path.exists() or not HUB_ID_PATTERN.fullmatch(name_or_path)):
        raise DianjingError("option_model_not_found", option=option, path=name_or_path)


def check_sampling_options(*, guidance_mode: str | None, scheduler: str | None, folder: Path | None) -> None:
    """Check a guidance mode and a scheduler by name before weights load, the scheduler against a model's folder.

    Raises: DianjingError.
    """
    if guidance_mode is not None:
        parse_guidance_mode(guidance_mode)
        make_guider(guidance_mode, guidance_scale=1.0)
    if scheduler is not None:
        parse_choice(scheduler, "scheduler")
        if folder is not None:
            from dianjing.pipelines.named_schedulers import make_scheduler
            from dianjing.pipelines.schedulers import load_adapter_scheduler

            make_scheduler(scheduler, load_adapter_scheduler(folder))


def check_few_steps(slow: bool | None, folder: Path | None, **settings: object) -> None:
    """Check before weights load whether few steps can be had, where they are asked for (`slow` is False).

    folder: of the model; None for one that is not on this machine yet. settings: of the call, by name.
    Raises: DianjingError for a model without an adapter for few steps, and for settings that rule it out.
    """
    should_use_few_steps(slow, settings)
    if slow is False and folder is not None:
        index = read_config_json(folder / "model_index.json")
        if DEFAULT_ADAPTER_KEY not in index:
            raise DianjingError("few_steps_impossible", reason=Message("few_steps_not_there"))


def load_pipeline(
    class_name: str,
    *,
    model: str,
    device: str,
    dtype: str,
    adapters: Sequence[NamedAdapter] = (),
    scheduler: str | None = None,
    **options: Any,
) -> Any:
    """Load a pipeline by its public name onto its device, with adapters and another scheduler, if any.

    options: of `from_pretrained`.

    Raises: DianjingError for a model, a device, an adapter or a scheduler that cannot be used.
    """
    gc.disable()  # the imports make a million lasting objects: collecting them costs 3 s, half of it at exit
    import torch

    cls = getattr(dianjing, class_name)
    gc.freeze()
    gc.enable()
    device = resolve_device(torch, device)
    set_progress_bars(is_enabled=sys.stderr.isatty())
    pipe = cls.from_pretrained(model, dtype=resolve_dtype(torch, dtype, device), **options)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    load_adapters(pipe, adapters)
    if scheduler is not None:
        from dianjing.pipelines.named_schedulers import make_scheduler

        pipe.scheduler = make_scheduler(scheduler, pipe.trained_scheduler)
    return pipe.to(device)


def set_progress_bars(*, is_enabled: bool) -> None:
    """Switch off the libraries' progress bars where stderr is no terminal."""
    import diffusers
    import transformers

    if not is_enabled:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def resolve_device(torch: Any, name: str) -> str:
    """Return the device for a name, where auto is the best one. Raises: DianjingError for one that is missing."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if (name.startswith("cuda") and not has_cuda) or (name == "mps" and not has_mps):
        raise DianjingError("device_not_available", name=name, version=torch.__version__)
    index = name.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise DianjingError("device_index_too_high", name=name, count=torch.cuda.device_count())
    return name


def resolve_dtype(torch: Any, name: str, device: str) -> Any:
    """Return the torch dtype for a name, where auto is float32 on the CPU and bfloat16 elsewhere."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, name)
