"""Tasks that train from scratch on generated samples: their source, their schedule and their description."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from dianjing.errors import DianjingError, Message
from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.train.config.text_to_image import TextToImageRunConfig
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.samples import CaptionEncoder, SampleSource
from dianjing.train.data.schedule import BatchShards, Bucket, SourceSchedule
from dianjing.train.tasks.base import ConfigT, Task, TaskDefinition, TrainingSetup

ScratchRunConfig = AutoencoderRunConfig | SegmenterRunConfig | TextToImageRunConfig

VALIDATION_SEED_OFFSET = 1_000_003  # added to the seed for samples that are not trained on


def make_sticker_source(config: ScratchRunConfig) -> SampleSource:
    """The sticker world with the curriculum of a run."""
    from dianjing.train.stickers import CurriculumStage, StickerWorld

    num_samples = config.run.total_steps * config.run.batch_size
    stages = []
    for stage in config.data.stages:
        fraction = stage.until_fraction
        until_position = None if fraction is None else int(fraction * num_samples)
        settings = stage.model_dump(exclude={"until_fraction"})
        stages.append(CurriculumStage(**settings, until_position=until_position))
    return StickerWorld(size_px=config.data.size_px, stages=stages, split="train")


def make_source_schedule(config: ScratchRunConfig, source: SampleSource, accelerator: Accelerator) -> SourceSchedule:
    """The schedule of the configured buckets, divided among all processes."""
    run = config.run
    if config.data.echo_factor > 1 and run.gradient_accumulation_steps > 1:
        raise DianjingError("echo_with_gradient_accumulation")
    buckets = [
        Bucket(
            kind=bucket.kind,
            num_frames=bucket.num_frames,
            shards=BatchShards(
                global_batch_size=bucket.batch_size or run.batch_size,
                accumulation_steps=run.gradient_accumulation_steps,
                num_processes=accelerator.num_processes,
                rank=accelerator.process_index,
            ),
        )
        for bucket in config.data.buckets
    ]
    return SourceSchedule(
        source=source,
        buckets=buckets,
        sampling_weights=[bucket.sampling_weight for bucket in config.data.buckets],
        positions_per_step=run.batch_size,
        seed=run.seed,
        fps=config.data.fps,
    )


class ScratchDefinition(TaskDefinition[ConfigT]):
    """The definition of a task that trains from scratch on generated samples."""

    @abstractmethod
    def make_task(
        self, config: ConfigT, source: SampleSource, accelerator: Accelerator
    ) -> tuple[Task, CaptionEncoder | None]:
        """The task with new weights, and the encoder of its captions if it takes any."""

    def build(self, config: Any, source: SampleSource | None, accelerator: Accelerator) -> TrainingSetup:
        source = make_sticker_source(config) if source is None else source
        schedule = make_source_schedule(config, source, accelerator)
        torch.manual_seed(config.run.seed)  # initial weights; the training loop has a generator of its own
        task, caption_encoder = self.make_task(config, source, accelerator)
        batches = MicroBatchDataset(schedule, seed=config.run.seed, caption_encoder=caption_encoder)
        return TrainingSetup(task=task, batches=batches)

    def describe(self, config: Any) -> Iterator[Message]:
        steps, samples = config.run.total_steps, config.run.total_steps * config.run.batch_size
        yield Message("run_on_generated_samples", steps=steps, samples=f"{samples:,}")
