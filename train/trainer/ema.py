"""Moving averages of the trained weights: exponential, or that of a schedule-free optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dianjing.train.config.base import OptimizerConfig


class WeightAverage(Protocol):
    """An average of past weights, used for evaluation and export."""

    def update(self, step: int) -> None: ...

    def average_parameters(self) -> Any:
        """A context inside which the model holds the averages."""


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
        """A context inside which the model holds the averages; changes made to it there change the averages."""
        self._swap_weights()
        try:
            yield
        finally:
            self._swap_weights()

    @torch.no_grad()
    def _swap_weights(self) -> None:
        for weight, average in zip(self.weights, self.averages, strict=True):
            previous = weight.clone()
            weight.copy_(average)
            average.copy_(previous)


class ScheduleFreeAverage:
    """The average inside a schedule-free optimizer, which is the only one to evaluate and export.

    The library switches between weights and average by interpolation, which rounds. Here the way back is a copy, so
    that saving and sampling do not change the run.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer

    def update(self, step: int) -> None:
        pass

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """A context inside which the model holds the averages; changes made to it there are lost."""
        previous = [weight.detach().clone() for weight in self.weights]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            with torch.no_grad():
                for weight, before in zip(self.weights, previous, strict=True):
                    weight.copy_(before)


def make_ema(model: nn.Module, optimizer: Any, config: OptimizerConfig) -> WeightAverage:
    """The average of a run; model and optimizer are those returned by `Accelerator.prepare`."""
    if config.kind == "schedule_free":
        return ScheduleFreeAverage(model, optimizer)
    return ExponentialMovingAverage(model, config.ema_decay)
