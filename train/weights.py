"""Weights of a run: exported as diffusers and transformers folders, and taken up again from there."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn


def save_module(module: Any, folder: Path, dtype: torch.dtype) -> None:
    """A diffusers or transformers model as a folder in the given precision; itself it stays."""
    nn.Module.to(deepcopy(module), dtype).save_pretrained(folder)


def load_weights(module: nn.Module, folder: Path, *, new_parts: tuple[str, ...] = ()) -> None:
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
    missing = [n for n in missing if own[n].data_ptr() not in tied and not n.startswith(new_parts or "\n")]
    if missing or unexpected:
        raise ValueError(f"{files[0]} does not fit this run's model: it lacks {missing} and has {unexpected}")
