"""Means of the weights of models that were trained from the same ones: model soups.

Source: Wortsman et al. 2022, arXiv 2203.05482.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS_PATTERN = "*.safetensors"
LORA_A, LORA_B = ".lora_A.", ".lora_B."
Weights = dict[str, Tensor]


def average_models(folders: Sequence[Path], output: Path) -> None:
    """Write the first of several models with the mean of the weights of all, in half precision.

    folders: of pipelines or of models, with the same files.
    """
    _copy_folder(folders[0], output)
    for path in output.rglob(WEIGHTS_PATTERN):
        parts = [load_file(folder / path.relative_to(output)) for folder in folders]
        mean = {name: torch.stack([part[name].float() for part in parts]).mean(dim=0).half() for name in parts[0]}
        save_file(mean, path, metadata=_read_metadata(path))


def average_adapters(folders: Sequence[Path], output: Path) -> None:
    """Write the first of several LoRA adapters with the mean of what all add to the weights of a model.

    The mean has a higher rank than they: it is cut to theirs by singular value decomposition.
    """
    _copy_folder(folders[0], output)
    for path in output.rglob(WEIGHTS_PATTERN):
        parts = [load_file(folder / path.relative_to(output)) for folder in folders]
        mean: Weights = {}
        for name in (name for name in parts[0] if LORA_A in name):
            mean |= _average_pair(parts, name, name.replace(LORA_A, LORA_B))
        save_file(mean, path, metadata=_read_metadata(path))


def _average_pair(parts: Sequence[Weights], name_a: str, name_b: str) -> Weights:
    """The two factors of the mean of B A, where A is (r, n) and B is (m, r)."""
    rank, dtype = len(parts[0][name_a]), parts[0][name_a].dtype
    delta = torch.stack([part[name_b].float() @ part[name_a].float() for part in parts]).mean(dim=0)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    roots = values[:rank].sqrt()
    factors = {name_a: roots[:, None] * right[:rank], name_b: left[:, :rank] * roots}
    return {name: factor.to(dtype).contiguous() for name, factor in factors.items()}


def _copy_folder(folder: Path, output: Path) -> None:
    """Copy a folder in place of what stands there."""
    if output.exists():
        shutil.rmtree(output)
    shutil.copytree(folder, output)


def _read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()
