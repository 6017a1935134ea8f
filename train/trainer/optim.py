"""The optimizer, its learning rate, and the moving average of what it makes."""

import importlib.util
from math import cos, pi
from typing import Any

import torch
from torch import nn

from dianjing.train.config.base import OptimizerConfig
from dianjing.train.trainer import distributed

OPTIONAL_LIBRARIES = {"adamw8bit": "bitsandbytes", "schedule_free": "schedulefree"}  # the library that each kind needs


def get_learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then constant or cosine decay to final_fraction at total_steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    share = config.final_lr_fraction + (1 - config.final_lr_fraction) * (1 + cos(pi * done)) / 2
    return config.learning_rate * share


def check_optimizer(config: OptimizerConfig) -> None:
    """Raises ValueError for a kind whose library is not installed, or that cannot be sharded."""
    library = OPTIONAL_LIBRARIES.get(config.kind)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ValueError(
            f"optimizer.kind {config.kind!r} takes the library {library}: pip install 'dianjing[optimizers]'"
        )
    if config.kind != "adamw" and (distributed.is_deepspeed_launched() or distributed.is_fsdp_launched()):
        raise ValueError(f"optimizer.kind {config.kind!r} with sharded weights; they take adamw")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """One that decays kernels and matrices, never biases, norms or embeddings."""
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and p not in embeddings]
    kept = set(trained) - set(decayed)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p in kept], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    if config.kind == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **settings)
    if config.kind == "schedule_free":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(groups, **settings)
        optimizer.train()
        optimizer.state.clear()  # train() leaves an empty one for each weight, which would pass for a state
        return optimizer
    # fused: one kernel, and the only kind that can refuse a step without asking the host
    return torch.optim.AdamW(groups, **settings, fused=True)
