"""Word embeddings that PEFT saved beside the LoRA of a text encoder: what changed in them becomes a LoRA as well.

`peft.get_peft_model_state_dict` adds them if the vocabulary differs from that of the model that its configuration
names, so also if two encoders were given one configuration. PEFT and diffusers copy them over the model's own for good;
as a LoRA the change has a weight like the rest of its adapter, and leaves with it.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.weights.adapters import Adapter
from dianjing.weights.formats.lazy_tensors import open_checkpoint
from dianjing.weights.formats.lora_components import WORD_EMBEDDINGS
from dianjing.weights.manifest import get_weight_files, summarize_names


def add_embedding_changes(adapter: Adapter, model: nn.Module, source: object) -> Adapter:
    """Add a LoRA for each of an adapter's word embeddings that differ from the model's; equal ones are left out.

    Raises: DianjingError for embeddings of another vocabulary, not finite, or trained with a setting that only LoRA of
    linear layers can have.
    """
    for key, embeddings in adapter.word_embeddings.items():
        module, weight = _find_embedding(model, key, source)
        if embeddings.shape != weight.shape:
            sizes = {"size": str(tuple(embeddings.shape)), "expected": str(tuple(weight.shape))}
            raise DianjingError("adapter_embeddings_size", path=source, name=key, **sizes)
        if not bool(torch.isfinite(embeddings.float()).all()):
            raise DianjingError("adapter_not_finite", path=source, names=summarize_names([key]))
        embeddings = embeddings.to(weight.device)
        rows = _find_changed_rows(embeddings, weight)
        if len(rows) > 0:
            adapter = _add_change(adapter, module, embeddings.float() - weight.float(), rows, source)
    return adapter


def drop_equal_embeddings(adapter: Adapter, folder: Path) -> Adapter:
    """Leave out an adapter's word embeddings that equal those of the text encoder in a folder."""
    tensors = {name: each for file in get_weight_files(folder) for name, each in open_checkpoint(file).items()}
    weights = [each.read() for name, each in tensors.items() if WORD_EMBEDDINGS.fullmatch(name)]
    changed = {
        key: embeddings
        for key, embeddings in adapter.word_embeddings.items()
        if not any(
            embeddings.shape == weight.shape and len(_find_changed_rows(embeddings, weight)) == 0 for weight in weights
        )
    }
    return adapter._replace(word_embeddings=changed)


def _find_changed_rows(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Find the tokens whose embeddings differ from those in `weight`, both (tokens, width)."""
    # a file may be rounded to a shorter type than the model's, or the model when it was loaded
    is_equal = (weight.to(embeddings.dtype) == embeddings) | (embeddings.to(weight.dtype) == weight)
    return (~is_equal).any(dim=1).nonzero().flatten()


def _find_embedding(model: nn.Module, key: str, source: object) -> tuple[str, Tensor]:
    """Find the embedding of a key: the module that reads it, and its weight (tokens, width) without fused adapters.

    T5 has two modules over one weight, of which its encoder reads the last.
    """
    layers = {name: layer for name, layer in model.named_modules() if not name.endswith(".base_layer")}
    named: Any = layers.get(key.removesuffix(".weight").removesuffix(".base_layer"))
    if not isinstance(getattr(named, "base_layer", named), nn.Embedding):
        raise DianjingError("adapter_of_another_model", modules=summarize_names([key]))
    module = [name for name, layer in layers.items() if getattr(layer, "weight", None) is named.weight][-1]
    layer: Any = layers[module]
    weight = layer.weight.detach()
    for name in getattr(layer, "merged_adapters", ()):
        weight = weight - layer.get_delta_weight(name).to(weight)
    return module, weight


def _add_change(adapter: Adapter, module: str, change: Tensor, rows: Tensor, source: object) -> Adapter:
    """Add the change (tokens, width) of an embedding, which is zero outside of `rows`, as a LoRA with a scale of 1."""
    config = adapter.config
    settings = [name for name in ("use_dora", "lora_bias") if config.get(name)]
    if f"{module}.lora_embedding_A" in adapter.state:
        settings.append("target_modules")
    if settings:
        raise DianjingError("adapter_embeddings_setting", path=source, name=settings[0], module=module)
    num_tokens, width = change.shape
    if len(rows) < width:
        down = torch.zeros(len(rows), num_tokens, device=change.device)
        down[torch.arange(len(rows)), rows] = 1
        up = change[rows].T
    else:
        down, up = change.T, torch.eye(width, device=change.device)
    rank = len(down)
    scaled = {"rank_pattern": rank, "alpha_pattern": rank**0.5 if config.get("use_rslora") else float(rank)}
    patterns = {name: {f"^{re.escape(module)}": value, **(config.get(name) or {})} for name, value in scaled.items()}
    halves = {f"{module}.lora_embedding_A": down.contiguous(), f"{module}.lora_embedding_B": up.contiguous()}
    return adapter._replace(state={**adapter.state, **halves}, config={**config, **patterns})
