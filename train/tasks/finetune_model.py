"""Finetune model."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dianjing.dit import DiT
from dianjing.train.config.finetune import FinetuneModelConfig, FinetuneRunConfig, LoraAdapterConfig


def make_lora_config(lora: LoraAdapterConfig, transformer: DiT, *, has_video: bool) -> LoraConfig:
    """Without films, what they alone use gets no adapter: nothing would train it.

    Raises: ValueError for a target that is the ending of no linear layer's name.
    """
    layers = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in lora.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            endings = sorted({".".join(name.split(".")[2:]) for name in layers if name.startswith("blocks.")})
            raise ValueError(
                f"model.lora.target_modules has {target!r}, which is no layer; layers: {', '.join(endings)}"
            )
    targets: list[str] | str = list(lora.target_modules)
    if not has_video and any(name.startswith(MOTION_PREFIXES) for name in layers):
        films, wanted = ("|".join(map(re.escape, names)) for names in (MOTION_PREFIXES, lora.target_modules))
        targets = rf"(?!{films})(.*\.)?({wanted})"  # not by exclude_modules: PEFT warns of it at every loading
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.kind == "dora",
        init_lora_weights="gaussian",
    )


def prepare_transformer(transformer: DiT, model: FinetuneModelConfig, *, has_video: bool) -> DiT:
    """Ready to train: with its adapter where one is trained, and blocks that are computed twice.

    Without films, what they alone use rests.
    """
    if model.attention_backend is not None:
        transformer.set_attention_backend(model.attention_backend)
    if model.gradient_checkpointing_interval:
        recomputed = set(list(transformer.blocks)[:: model.gradient_checkpointing_interval])

        def recompute(block: nn.Module, *inputs: Any) -> Tensor:
            return checkpoint(block, *inputs, use_reentrant=False) if block in recomputed else block(*inputs)

        transformer.enable_gradient_checkpointing(recompute)
    for name, weight in transformer.named_parameters():
        if name.startswith(MOTION_PREFIXES):
            weight.requires_grad_(has_video and model.trainable in ("all", "motion"))
        else:
            weight.requires_grad_(model.trainable == "all")
    if model.trainable == "lora":
        transformer.add_adapter(make_lora_config(model.lora, transformer, has_video=has_video))
    return transformer.train()


def get_storage_dtype(model: FinetuneModelConfig, compute_dtype: torch.dtype) -> torch.dtype:
    """Of the weights in memory: what is trained needs float32, what stays does not."""
    return torch.float32 if model.trainable in ("all", "motion") else compute_dtype


def get_motion_config(
    config: FinetuneRunConfig, model_config: Mapping[str, Any], *, has_motion_control: bool
) -> dict[str, Any]:
    """What a model whose configuration is `own` needs besides, to be trained on films.

    Raises: ValueError where it lacks that and cannot get it.
    """
    if not config.data.num_frames:
        return {}
    has_time, regions = model_config.get("use_motion_blocks", False), model_config.get("max_regions", 0)
    if has_motion_control and has_time and not regions:
        raise ValueError(f"{config.model.name} draws films without clicks; leave the masks out of the data set")
    if has_time:
        return {}
    if config.model.trainable == "lora":
        raise ValueError(
            f"{config.model.name} draws pictures, and an adapter gives it no time; take model.trainable = 'motion' or 'all'"
        )
    return {"use_motion_blocks": True, "max_regions": int(has_motion_control)}


MOTION_PREFIXES = ("motion_blocks.", "motion_conditioner.")  # of the transformer; a picture model has none
