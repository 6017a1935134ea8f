"""Batches of a fine-tuning: latents and text states read from the cache."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from dianjing.train.config.finetune import FinetuneObjectiveConfig
from dianjing.train.data.buckets import FileSample, FileSchedule, get_num_frames
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.motion_control import make_control_batch, sample_control_augmentation
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord
from dianjing.train.data.skip_log import SkipLog


class LatentBatchDataset(Dataset[Batch]):
    """Pictures of data sets, as their "latents" (B, C, Y, X), and what is said of them as `say` has it.

    With line art where that is encoded: "control" (B, C, Y, X).
    """

    def __init__(
        self,
        schedule: FileSchedule,
        latent_cache: LatentCache,
        objective: FinetuneObjectiveConfig,
        *,
        caption_batcher: CaptionBatcher,
        seed: int,
        skip_log: SkipLog,
    ) -> None:
        self.schedule, self.latent_cache, self.objective, self.caption_batcher = (
            schedule,
            latent_cache,
            objective,
            caption_batcher,
        )
        self.seed, self.skip_log = seed, skip_log

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.schedule.accumulation_steps)
        layout = self.schedule.bucket_at(step).shards
        rows = layout.get_rows(micro)
        samples, pictures = zip(*(self._load_readable(step, row) for row in range(rows.start, rows.stop)), strict=True)
        draws = np.random.default_rng((self.seed, step)).random((layout.global_batch_size, 3))[rows]
        texts = [
            choose_caption(sample.record, draw, self.objective) for sample, draw in zip(samples, draws, strict=True)
        ]
        batch = stack_latents(pictures)
        if get_num_frames(samples[0].shape) == 1:
            return batch | self.caption_batcher(texts)
        chances = np.random.default_rng((self.seed, step, 1)).random((layout.global_batch_size, 3))[rows]
        films = [sample.record for sample in samples]
        shown = [
            sample_control_augmentation(film, chance, self.objective)
            for film, chance in zip(films, chances, strict=True)
        ]
        texts = [text if draw.has_caption else ("", "") for text, draw in zip(texts, shown, strict=True)]
        return (
            batch
            | self.caption_batcher(texts)
            | make_control_batch(films, pictures, shown, caption_batcher=self.caption_batcher)
        )

    def _load_readable(self, step: int, row: int) -> tuple[FileSample, Batch]:
        """What is due, with its latents; in place of what cannot be read the next picture of its shape.

        Raises: ValueError where too many cannot.
        """
        after = 0
        while True:
            sample = self.schedule.get_sample(step, row, num_skipped=after)
            try:
                return sample, self.latent_cache.load_latents(sample.record, sample.shape)
            except ValueError as error:
                self.skip_log.add(sample.record.name, str(error))
            after += 1


LATENT_KEYS = {"latents", "control"}


def choose_caption(
    record: SampleRecord, uniforms: Sequence[float], objective: FinetuneObjectiveConfig
) -> tuple[str, str]:
    """What each encoder reads; draws on [0, 1) decide on the language and, for each encoder, on dropout."""
    language, dropped, dropped_t5 = uniforms
    both = (record.text_zh, record.text_en) if language < objective.zh_probability else (record.text_en, record.text_zh)
    text = both[0] or both[1] or ""
    return (
        "" if dropped < objective.caption_dropout else text,
        "" if dropped_t5 < objective.caption_dropout_t5 else text,
    )


def stack_latents(samples: Sequence[Batch]) -> Batch:
    """Latents and line art; what is clicked on is not of every film."""
    return {name: torch.stack([picture[name] for picture in samples]) for name in LATENT_KEYS & samples[0].keys()}


def collect_texts(records: Sequence[SampleRecord]) -> set[str]:
    """Everything that may be said of them or asked of what is in them, and nothing."""
    asked = (entry.motion_label for entry in records if entry.motion_label is not None)
    motions = {text for click in asked for text in (click.motion_zh, click.motion_en) if text}
    return {"", *motions, *(text for entry in records for text in (entry.text_zh, entry.text_en) if text)}
