"""The interfaces of a task: what the training loop trains, and what the commands need to know of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dianjing.errors import Message
from dianjing.train.config.base import BaseConfig, TimestepSamplingConfig
from dianjing.train.data.loader import ScheduledBatches
from dianjing.train.data.samples import Batch, SampleSource
from dianjing.train.data.schedule import Bucket
from dianjing.train.diffusion.noise_process import NoiseProcess

ConfigT = TypeVar("ConfigT", bound=BaseConfig)


class Task(nn.Module, ABC):
    """A trainable module with its loss, samples and export.

    Registered submodules are trained; frozen helpers are held unregistered. All randomness of a step comes from
    `sample_noise`.
    """

    @abstractmethod
    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen helpers."""

    @abstractmethod
    def compile_modules(self, mode: str) -> None:
        """Compile the expensive functions with torch.compile."""

    @abstractmethod
    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        """The noise of a global batch; the first axis of every tensor is the row."""

    @abstractmethod
    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        """Scalar metrics, each a mean over the rows; the one named "loss" is minimized."""

    @abstractmethod
    def sample_grid(self) -> np.ndarray:
        """An image that shows the current model with a fixed seed, uint8 (H, W, 3)."""

    def validate(self) -> dict[str, float]:
        """Metrics on samples that are not trained on, by their names in metrics.jsonl."""
        return {}

    @abstractmethod
    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write diffusers / transformers folders; returns figures for the model card."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A task, and the batches that it is trained on.

    samples: the name of each sample -> a hash of its content and captions; None for generated samples.
    """

    task: Task
    batches: ScheduledBatches
    samples: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class CardSections:
    """The parts of a model card that depend on the task."""

    description: str  # one sentence
    usage: str  # Python code that loads the export; FOLDER stands for its path
    tags: tuple[str, ...] = ()
    front_matter: Mapping[str, Any] = field(default_factory=dict)


class TaskDefinition(ABC, Generic[ConfigT]):
    """Everything that the commands need to know of a task; `tasks.registry` holds one for each name."""

    config_class: type[ConfigT]
    has_cache = False  # True if `fill_caches` encodes samples ahead of training

    @abstractmethod
    def build(self, config: ConfigT, source: SampleSource | None, accelerator: Accelerator) -> TrainingSetup:
        """The task and its batches; `source` replaces the sticker world for tasks that generate their samples.

        Raises: DianjingError for data or models that cannot be used.
        """

    @abstractmethod
    def describe(self, config: ConfigT) -> Iterator[Message]:
        """Lines that say what a run will do and need; no weights are loaded."""

    @abstractmethod
    def make_card_sections(self, config: ConfigT, folder: Path) -> CardSections:
        """The description and usage of the export in `folder`, for its model card."""

    def make_noise_process(self, config: ConfigT) -> tuple[NoiseProcess, TimestepSamplingConfig] | None:
        """The noise process of a run and the distribution of its timesteps; None if it adds no noise."""
        return None

    def fill_caches(self, config: ConfigT, accelerator: Accelerator) -> None:
        """Encode all samples ahead of training."""
        raise NotImplementedError
