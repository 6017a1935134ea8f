"""Optimizers and learning-rate schedules."""

import importlib.util
from math import cos, pi
from typing import Any

import torch
from torch import nn

from dianjing.errors import DianjingError
from dianjing.train.config.base import OptimizerConfig
from dianjing.train.trainer import distributed

# by kind of optimizer
OPTIONAL_LIBRARIES = {"adamw8bit": "bitsandbytes", "schedule_free": "schedulefree", "prodigy": "prodigyopt"}


def get_learning_rate(
    config: OptimizerConfig, step: int, total_steps: int, *, elapsed_fraction: float | None = None
) -> float:
    """Linear warm-up, then constant, or cosine decay to `final_lr_fraction` at `total_steps`.

    elapsed_fraction: of the run's time, from 0 to 1; the cosine follows it if `lr_decay_over` is "time".
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    if config.lr_decay_over == "time":
        assert elapsed_fraction is not None, "the loop gives it to a run whose learning rate decays over time"
        progress = min(1.0, elapsed_fraction)
    else:
        progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    fraction = config.final_lr_fraction + (1 - config.final_lr_fraction) * (1 + cos(pi * progress)) / 2
    return config.learning_rate * fraction


def check_optimizer(config: OptimizerConfig) -> None:
    """Check that an optimizer's library is installed. Raises: DianjingError if not, or if it cannot be sharded."""
    library = OPTIONAL_LIBRARIES.get(config.kind)
    if library is not None and importlib.util.find_spec(library) is None:
        raise DianjingError("optimizer_library_missing", kind=config.kind, library=library)
    if config.kind != "adamw" and (distributed.is_deepspeed_launched() or distributed.is_fsdp_launched()):
        raise DianjingError("optimizer_not_shardable", kind=config.kind)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimizer of the trainable weights that decays matrices and kernels, not biases, norms or embeddings."""
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = {p for p in trainable if p.ndim >= 2 and p not in embeddings}
    groups = [
        {"params": [p for p in trainable if p in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    if config.kind == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **settings)
    if config.kind == "schedule_free":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(groups, **settings)
        optimizer.train()
        optimizer.state.clear()  # train() leaves an empty state for each weight, which would count as a state
        return optimizer
    if config.kind == "prodigy":
        from prodigyopt import Prodigy

        return Prodigy(
            groups, **settings, d_coef=config.d_coef, use_bias_correction=True, safeguard_warmup=config.warmup_steps > 0
        )
    # the fused kernel is the only one that can skip a step without synchronizing with the host
    return torch.optim.AdamW(groups, **settings, fused=True)
