"""Ema."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dianjing.train.config.base import OptimizerConfig


class WeightAverage(Protocol):
    """Better weights than the ones in training, made from their past."""

    def update(self, step: int) -> None: ...

    def average_parameters(self) -> Any:
        """A context: inside, the model holds the averages."""


class ExponentialMovingAverage:
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
    def average_parameters(self) -> Iterator[None]:
        """Inside, the model holds the averages; changes made to it there become the averages."""
        self._swap_weights()
        try:
            yield
        finally:
            self._swap_weights()

    @torch.no_grad()
    def _swap_weights(self) -> None:
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
    def average_parameters(self) -> Iterator[None]:
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


def make_ema(model: nn.Module, optimizer: Any, config: OptimizerConfig) -> WeightAverage:
    """model and optimizer as they came from `Accelerator.prepare`."""
    if config.kind == "schedule_free":
        return ScheduleFreeAverage(model, optimizer)
    return ExponentialMovingAverage(model, config.ema_decay)
