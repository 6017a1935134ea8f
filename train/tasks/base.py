"""Base."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dianjing.train.data.loader import ScheduledBatches
from dianjing.train.data.samples import Batch
from dianjing.train.data.schedule import Bucket


class Task(nn.Module, ABC):
    """What is trained. Registered submodules train; frozen helpers are held unregistered.

    A task takes its randomness from `draw` alone.
    """

    @abstractmethod
    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen helpers."""

    @abstractmethod
    def compile_modules(self, mode: str) -> None:
        """Compile the heavy functions."""

    @abstractmethod
    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        """The noise of a whole global batch; the first axis is the row."""

    @abstractmethod
    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        """Scalars, each a mean over the rows; the one named "loss" is minimised."""

    @abstractmethod
    def sample_grid(self) -> np.ndarray:
        """A fixed-seed picture of what the task can do now, uint8 (H, W, 3)."""

    def validate(self) -> dict[str, float]:
        """How well the task does now on what is not trained on, under names for metrics.jsonl."""
        return {}

    @abstractmethod
    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write diffusers / transformers folders; return figures measured on the way."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A task and the batches it is trained on."""

    task: Task
    batches: ScheduledBatches
