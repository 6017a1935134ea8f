"""The result of a fine-tuning, written and read again before it counts."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import HunyuanDiT2DControlNetModel
from diffusers.schedulers import SchedulerMixin
from peft import get_peft_model_state_dict
from torch import nn

from dianjing.dit import DiT
from dianjing.pipelines.text_to_image import TextToImagePipeline


def export_pipeline(
    folder: Path, dtype: torch.dtype, *, base: Path, trained: Mapping[str, nn.Module], scheduler: SchedulerMixin
) -> None:
    """The model's whole folder, with what was trained in place of its own."""
    parts = {name: nn.Module.to(deepcopy(part), dtype) for name, part in trained.items()}
    pipe = TextToImagePipeline.from_pretrained(base, **parts, dtype=dtype)
    pipe.scheduler = scheduler
    pipe.save_pretrained(folder)
    for name, part in parts.items():
        again = type(part).from_pretrained(folder / name, dtype=dtype)
        _check_same(again, part)


def export_adapter(folder: Path, dtype: torch.dtype, *, transformer: DiT, scheduler: SchedulerMixin) -> None:
    """As diffusers and PEFT load it."""
    weights = {name: weight.to(dtype) for name, weight in get_peft_model_state_dict(transformer).items()}
    described = transformer.peft_config["default"].to_dict()
    TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=described)
    scheduler.save_pretrained(folder / "scheduler")
    found, _ = TextToImagePipeline.lora_state_dict(folder)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight.cpu()) for name, weight in weights.items())


def export_controlnet(
    folder: Path, dtype: torch.dtype, *, controlnet: HunyuanDiT2DControlNetModel, scheduler: SchedulerMixin
) -> None:
    """As diffusers loads it."""
    part = nn.Module.to(deepcopy(controlnet), dtype)
    part.save_pretrained(folder)
    scheduler.save_pretrained(folder / "scheduler")
    _check_same(HunyuanDiT2DControlNetModel.from_pretrained(folder, dtype=dtype), part)


def _check_same(again: nn.Module, written: nn.Module) -> None:
    found = again.state_dict()
    assert all(torch.equal(found[name], weight.cpu()) for name, weight in written.state_dict().items())
