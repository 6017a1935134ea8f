"""The optimizer, its learning rate, and the moving average of what it makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dianjing.train.sections import OptimizerSection


def learning_rate(config: OptimizerSection, step: int, total_steps: int) -> float:
    """Linear warm-up, then constant or cosine decay to final_fraction at total_steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    share = config.final_fraction + (1 - config.final_fraction) * (1 + cos(pi * done)) / 2
    return config.learning_rate * share


def make_optimizer(model: nn.Module, config: OptimizerSection) -> torch.optim.AdamW:
    """AdamW that decays kernels and matrices, never biases, norms or embeddings."""
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and p not in embeddings]
    kept = set(trained) - set(decayed)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p in kept], "weight_decay": 0.0},
    ]
    # fused: one kernel, and the only kind that can refuse a step without asking the host
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip


class MovingAverage:
    """Exponential moving average of the trained weights, with a warm-up of the decay."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.weights]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.averages, self.weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averages; changes made to it there become the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.weights, self.averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
