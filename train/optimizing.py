"""The optimizer, its learning rate, and the moving average of what it makes."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dianjing.train import zero
from dianjing.train.sections import OptimizerSection

EXTRAS = {"adamw8bit": "bitsandbytes", "schedule_free": "schedulefree"}  # the library that each kind needs


def learning_rate(
    config: OptimizerSection, step: int, total_steps: int, *, elapsed_share: float | None = None
) -> float:  # fmt: skip
    """Linear warm-up, then constant or cosine decay to final_fraction at total_steps.

    elapsed_share: share of the run's time that is over, from 0 to 1; the cosine follows it where decay_over is "time".
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.decay_over == "time":
        assert elapsed_share is not None, "the loop gives it to a run whose learning rate decays over time"
        done = min(1.0, elapsed_share)
    else:
        done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    share = config.final_fraction + (1 - config.final_fraction) * (1 + cos(pi * done)) / 2
    return config.learning_rate * share


def check_optimizer(config: OptimizerSection) -> None:
    """Raises ValueError for a kind whose library is not installed, or that cannot be sharded."""
    library = EXTRAS.get(config.kind)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ValueError(
            f"optimizer.kind {config.kind!r} takes the library {library}: pip install 'dianjing[optimizers]'"
        )
    if config.kind != "adamw" and (zero.is_launched() or zero.is_fsdp_launched()):
        raise ValueError(f"optimizer.kind {config.kind!r} with sharded weights; they take adamw")


def make_optimizer(model: nn.Module, config: OptimizerSection) -> torch.optim.Optimizer:
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


class Average(Protocol):
    """Better weights than the ones in training, made from their past."""

    def update(self, step: int) -> None: ...

    def applied(self) -> Any:
        """A context: inside, the model holds the averages."""


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


class ScheduleFreeAverage:
    """The average that a schedule-free optimizer keeps: its own, and the only weights to evaluate and export.

    The library goes there and back by interpolating, which rounds: here the way back is a copy, so that saving or
    showing changes no bit of the run.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer

    def update(self, step: int) -> None:
        pass

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averages; changes made to it there are lost."""
        kept = [weight.detach().clone() for weight in self.weights]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            with torch.no_grad():
                for weight, before in zip(self.weights, kept, strict=True):
                    weight.copy_(before)


def make_average(model: nn.Module, optimizer: Any, config: OptimizerSection) -> Average:
    """model and optimizer as they came from `Accelerator.prepare`."""
    if config.kind == "schedule_free":
        return ScheduleFreeAverage(model, optimizer)
    return MovingAverage(model, config.ema_decay)
