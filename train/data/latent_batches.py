"""Batches for fine-tuning: latents and text-encoder states read from the cache.

B batch, C latent channels, F frames; latents are (B, C, Y, X) or (B, C, F, Y, X).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from dianjing.errors import DianjingError
from dianjing.train.config.finetune import FinetuneObjectiveConfig
from dianjing.train.data.buckets import FileSample, FileSchedule, get_num_frames
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.motion_control import make_control_batch, sample_control_augmentation
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord
from dianjing.train.data.skip_log import SkipLog

LATENT_KEYS = {"latents", "control"}


class LatentBatchDataset(Dataset[Batch]):
    """Micro-batches of data sets: "latents", captions as `caption_batcher` returns them, and motion control of clips.

    If control images are cached, "control" holds their latents (B, C, Y, X).
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
        self.schedule, self.latent_cache, self.objective = schedule, latent_cache, objective
        self.caption_batcher, self.seed, self.skip_log = caption_batcher, seed, skip_log

    def __getitem__(self, index: int) -> Batch:
        step, micro_step = divmod(index, self.schedule.accumulation_steps)
        shards = self.schedule.bucket_at(step).shards
        rows = shards.get_rows(micro_step)
        samples, latents = zip(*(self._load_readable(step, row) for row in range(rows.start, rows.stop)), strict=True)
        uniforms = np.random.default_rng((self.seed, step)).random((shards.global_batch_size, 3))[rows]
        texts = [
            choose_caption(sample.record, draws, self.objective)
            for sample, draws in zip(samples, uniforms, strict=True)
        ]
        batch = stack_latents(latents)
        if get_num_frames(samples[0].shape) == 1:
            return batch | self.caption_batcher(texts)
        uniforms = np.random.default_rng((self.seed, step, 1)).random((shards.global_batch_size, 3))[rows]
        records = [sample.record for sample in samples]
        augmentations = [
            sample_control_augmentation(record, draws, self.objective)
            for record, draws in zip(records, uniforms, strict=True)
        ]
        texts = [text if each.has_caption else ("", "") for text, each in zip(texts, augmentations, strict=True)]
        control = make_control_batch(records, latents, augmentations, caption_batcher=self.caption_batcher)
        return batch | self.caption_batcher(texts) | control

    def _load_readable(self, step: int, row: int) -> tuple[FileSample, Batch]:
        """The sample at a row with its latents, or the next readable sample of its shape.

        Raises: DianjingError if too many samples are unreadable.
        """
        num_skipped = 0
        while True:
            sample = self.schedule.get_sample(step, row, num_skipped=num_skipped)
            try:
                return sample, self.latent_cache.load_latents(sample.record, sample.shape)
            except DianjingError as error:
                self.skip_log.add(sample.record.name, error)
            num_skipped += 1


def choose_caption(
    record: SampleRecord, uniforms: Sequence[float], objective: FinetuneObjectiveConfig
) -> tuple[str, str]:
    """The caption for each text encoder; `uniforms` (3,) decide on the language and on the dropout of each encoder.

    A record with a dropout of its own loses the captions of both encoders together.
    """
    language, dropout, dropout_t5 = uniforms
    zh, en = record.text_zh, record.text_en
    text = (zh or en if language < objective.zh_probability else en or zh) or ""
    if record.caption_dropout is not None:
        text = "" if dropout < record.caption_dropout else text
        return text, text
    return (
        "" if dropout < objective.caption_dropout else text,
        "" if dropout_t5 < objective.caption_dropout_t5 else text,
    )


def stack_latents(samples: Sequence[Batch]) -> Batch:
    """Batch the latents (and line art) of samples; region masks are left out, since not every video has one.

    If the loss leaves out a part of any sample, "loss_mask" (B, Y, X) is the fraction of each latent cell that counts.
    """
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in LATENT_KEYS & samples[0].keys()}
    if any("loss_mask" in sample for sample in samples):
        ones = torch.ones(samples[0]["latents"].shape[-2:])
        batch["loss_mask"] = torch.stack([sample.get("loss_mask", ones) for sample in samples])
    return batch


def collect_texts(records: Sequence[SampleRecord]) -> set[str]:
    """All captions and motion phrases of these records, and the empty text."""
    labels = [record.motion_label for record in records if record.motion_label is not None]
    motions = {text for label in labels for text in (label.motion_zh, label.motion_en) if text}
    return {"", *motions, *(text for record in records for text in (record.text_zh, record.text_en) if text)}
