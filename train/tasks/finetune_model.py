"""The transformer of a fine-tuning run: adapters, gradient checkpointing, trainable weights and motion blocks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.train.config.finetune import FinetuneModelConfig, FinetuneRunConfig, LoraAdapterConfig
from dianjing.train.tasks.text_to_image_model import MOTION_PREFIXES
from dianjing.weights.adapters import fetch_adapters
from dianjing.weights.manifest import summarize_names


def make_adapter_config(lora: LoraAdapterConfig, transformer: DiT, *, has_video: bool) -> PeftConfig:
    """PEFT's configuration of an adapter; without videos, motion blocks and motion conditioning get none.

    Raises: DianjingError for a target module that is no suffix of a linear layer's name, and for a rank above the
    dimensions of all layers.
    """
    layers = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    max_rank = 0
    for target in lora.target_modules:
        adapted = [module for name, module in layers.items() if name == target or name.endswith(f".{target}")]
        if not adapted:
            suffixes = sorted({".".join(name.split(".")[2:]) for name in layers if name.startswith("blocks.")})
            raise DianjingError("lora_target_unknown", target=target, layers=suffixes)
        max_rank = max(max_rank, *(min(module.in_features, module.out_features) for module in adapted))
    if lora.rank > max_rank and lora.kind != "lokr":  # which takes such a rank for undecomposed factors
        raise DianjingError("lora_rank_too_large", rank=lora.rank, maximum=max_rank)
    targets: list[str] | str = list(lora.target_modules)
    if not has_video and any(name.startswith(MOTION_PREFIXES) for name in layers):
        excluded, included = ("|".join(map(re.escape, names)) for names in (MOTION_PREFIXES, lora.target_modules))
        targets = rf"(?!{excluded})(.*\.)?({included})"  # with exclude_modules, PEFT would warn at every loading
    alpha = lora.rank if lora.alpha is None else lora.alpha
    products: dict[str, Any] = {"r": lora.rank, "alpha": alpha, "rank_dropout": lora.dropout, "target_modules": targets}
    if lora.kind == "loha":
        return LoHaConfig(**products)
    if lora.kind == "lokr":
        return LoKrConfig(**products, decompose_factor=lora.decompose_factor)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.kind == "dora",
        init_lora_weights="gaussian",
    )


def prepare_transformer(transformer: DiT, model: FinetuneModelConfig, *, has_video: bool) -> DiT:
    """Make a transformer ready to train: attention backend, gradient checkpointing, trainable weights, adapter.

    Without videos, motion blocks and motion conditioning are frozen.
    """
    if model.attention_backend is not None:
        transformer.set_attention_backend(model.attention_backend)
    if model.gradient_checkpointing_interval:
        recomputed = set(list(transformer.blocks)[:: model.gradient_checkpointing_interval])

        def run_block(block: nn.Module, *inputs: Any) -> Tensor:
            return checkpoint(block, *inputs, use_reentrant=False) if block in recomputed else block(*inputs)

        transformer.enable_gradient_checkpointing(run_block)
    for name, weight in transformer.named_parameters():
        if name.startswith(MOTION_PREFIXES):
            weight.requires_grad_(has_video and model.trainable in ("all", "motion"))
        else:
            weight.requires_grad_(model.trainable == "all")
    if model.trainable == "lora":
        transformer.add_adapter(make_adapter_config(model.lora, transformer, has_video=has_video))
    return transformer.train()


def load_adapter_weights(transformer: DiT, source: Path) -> None:
    """Set the adapter of a transformer to one that was saved, in a folder or a file.

    Raises: DianjingError if that has other layers, another rank or another alpha.
    """
    saved = fetch_adapters(source).get("transformer")
    config, state = transformer.peft_config["default"], get_peft_model_state_dict(transformer)
    expected = {name: tuple(weight.shape) for name, weight in state.items()}
    found = {} if saved is None else {name: tuple(weight.shape) for name, weight in saved.state.items()}
    alpha = None if saved is None else saved.config.get("lora_alpha")
    if found != expected or alpha != config.lora_alpha:
        differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise DianjingError(
            "lora_start_mismatch",
            path=source,
            names=summarize_names(differing or ["alpha"], 3),
            rank=config.r,
            alpha=config.lora_alpha,
        )
    assert saved is not None
    set_peft_model_state_dict(transformer, saved.state)


def check_adapter_settings(config: FinetuneRunConfig, model_folder: Path) -> None:
    """Check that the model in a folder takes the adapter of a run, without its weights.

    Raises: DianjingError as `make_adapter_config`.
    """
    if config.model.trainable == "lora":
        with torch.device("meta"):
            transformer = DiT.from_config(DiT.load_config(model_folder / "transformer"))
        make_adapter_config(config.model.lora, transformer, has_video=bool(config.data.num_frames))


def get_storage_dtype(model: FinetuneModelConfig, compute_dtype: torch.dtype) -> torch.dtype:
    """The dtype of the transformer's weights in memory: float32 if they are trained."""
    return torch.float32 if model.trainable in ("all", "motion") else compute_dtype


def get_motion_config(
    config: FinetuneRunConfig, model_config: Mapping[str, Any], *, has_motion_control: bool
) -> dict[str, Any]:
    """Changes to the configuration of an image model that give it motion blocks, if the run trains on videos.

    Raises: DianjingError if the model has no motion control that the data need, or an adapter would need motion blocks.
    """
    if not config.data.num_frames:
        return {}
    has_motion_blocks, max_regions = model_config.get("use_motion_blocks", False), model_config.get("max_regions", 0)
    if has_motion_control and has_motion_blocks and not max_regions:
        raise DianjingError("data_need_motion_control", model=config.model.name)
    if has_motion_blocks:
        return {}
    if config.model.trainable == "lora":
        raise DianjingError("adapter_cannot_add_motion", model=config.model.name)
    return {"use_motion_blocks": True, "max_regions": int(has_motion_control)}
