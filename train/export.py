"""Weights of a run: exported as diffusers and transformers folders, and taken up again from there."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DControlNetModel
from diffusers.schedulers import SchedulerMixin
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from dianjing.dit import DiT
from dianjing.pipelines.text_to_image import TextToImagePipeline


def save_module(module: Any, folder: Path, dtype: torch.dtype) -> None:
    """A diffusers or transformers model as a folder in the given precision; itself it stays."""
    nn.Module.to(deepcopy(module), dtype).save_pretrained(folder)


def load_weights(module: nn.Module, folder: Path, *, new_prefixes: tuple[str, ...] = ()) -> None:
    """Exported weights into a model of the same shape, whatever their precision.

    Parts whose names begin as `new_parts` may be missing and keep their values; embeddings may have got rows, which
    are made as strong as the others.
    Raises ValueError where there are none, or names and shapes differ otherwise.
    """
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"{folder} holds {len(files)} .safetensors files; start_from takes an export, with one a part")
    given, own = load_file(files[0]), module.state_dict()
    embeddings = [f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)]
    for name in set(embeddings) & set(given):
        if own[name].shape[1:] == given[name].shape[1:]:
            new = own[name][len(given[name]) :]  # drawn for a first start, so smaller than what was trained
            given[name] = torch.cat([given[name].to(new), new * (given[name].float().std() / own[name].std())])
    try:
        missing, unexpected = module.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{files[0]} does not fit this run's model: {error}") from None
    tied = {tensor.data_ptr() for name, tensor in module.state_dict().items() if name in given}
    missing = [n for n in missing if own[n].data_ptr() not in tied and not n.startswith(new_prefixes or "\n")]
    if missing or unexpected:
        raise ValueError(f"{files[0]} does not fit this run's model: it lacks {missing} and has {unexpected}")


def export_pipeline(
    folder: Path, dtype: torch.dtype, *, base: Path, trained_modules: Mapping[str, nn.Module], scheduler: SchedulerMixin
) -> None:
    """The model's whole folder, with what was trained in place of its own."""
    parts = {name: nn.Module.to(deepcopy(part), dtype) for name, part in trained_modules.items()}
    pipe = TextToImagePipeline.from_pretrained(base, **parts, dtype=dtype)
    pipe.scheduler = scheduler
    pipe.save_pretrained(folder)
    for name, part in parts.items():
        again = type(part).from_pretrained(folder / name, dtype=dtype)
        _check_equal(again, part)


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
    _check_equal(HunyuanDiT2DControlNetModel.from_pretrained(folder, dtype=dtype), part)


def _check_equal(reloaded: nn.Module, written: nn.Module) -> None:
    found = reloaded.state_dict()
    assert all(torch.equal(found[name], weight.cpu()) for name, weight in written.state_dict().items())
