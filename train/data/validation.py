"""Validation of fine-tuning: samples that are never trained on, evaluated at fixed noise by timestep and language.

B batch, C latent channels; latents are (B, C, Y, X).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.errors import DianjingError
from dianjing.train.data.buckets import BucketShape
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.latent_batches import stack_latents
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord

NUM_QUANTILES = 4  # of the timesteps
MAX_VALIDATION_RECORDS = 64
VALIDATION_BATCH_SIZE = 16
GOLDEN_RATIO_CONJUGATE = 0.6180339887498949  # spreads times evenly, whatever their number
LANGUAGES = ("zh", "en")


@dataclass(frozen=True, kw_only=True)
class ValidationBatch:
    """Validation samples of one shape with captions in one language, in one quantile of the timesteps."""

    language: str
    quantile: int
    batch: Batch
    noise: Tensor  # like the latents
    time: Tensor  # (B,) on [0, 1)


def split_validation(
    index: DatasetIndex, fraction: float
) -> tuple[DatasetIndex, dict[BucketShape, list[SampleRecord]]]:
    """Split an index into training samples and validation records by shape.

    The content of each file decides for itself, whatever other samples there are.
    Raises: DianjingError if no sample is left for training, or none for validation although `fraction` is not 0.
    """
    if not fraction:
        return index, {}
    training = replace(index, records={}, repeats={})
    validation: dict[BucketShape, list[SampleRecord]] = {}
    for shape, records in index.records.items():
        for record, repeats in zip(records, index.repeats[shape], strict=True):
            assert record.digest is not None
            if int(record.digest[:8], 16) / 2**32 < fraction:
                validation.setdefault(shape, []).append(record)
            else:
                training.records.setdefault(shape, []).append(record)
                training.repeats.setdefault(shape, []).append(repeats)
    if not training.records or not validation:
        raise DianjingError("validation_split_empty", fraction=fraction, count=index.count)
    return training, validation


def iterate_validation_batches(
    validation_records: Mapping[BucketShape, Sequence[SampleRecord]],
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
) -> Iterator[ValidationBatch]:
    """All validation batches, of at most MAX_VALIDATION_RECORDS samples whose latents are cached."""
    cached = [
        (shape, record)
        for shape, records in validation_records.items()
        for record in records
        if latent_cache.contains(record, shape)
    ]
    chosen = cached[:MAX_VALIDATION_RECORDS]
    for language in LANGUAGES:
        for shape in validation_records:
            records = [r for s, r in chosen if s == shape and getattr(r, f"text_{language}") is not None]
            for first in range(0, len(records), VALIDATION_BATCH_SIZE):
                batch_records = records[first : first + VALIDATION_BATCH_SIZE]
                yield from _iterate_quantiles(batch_records, shape, language, latent_cache, caption_batcher)


def _iterate_quantiles(
    records: Sequence[SampleRecord],
    shape: BucketShape,
    language: str,
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
) -> Iterator[ValidationBatch]:
    texts = [getattr(record, f"text_{language}") for record in records]
    latents = stack_latents([latent_cache.load_latents(record, shape) for record in records])
    batch = latents | caption_batcher([(text, text) for text in texts])
    seeds = [int((record.digest or "0")[:15], 16) for record in records]
    noise = torch.stack([_make_noise(seed, batch["latents"].shape[1:]) for seed in seeds])
    offsets = torch.tensor([seed * GOLDEN_RATIO_CONJUGATE % 1 for seed in seeds])
    for quantile in range(NUM_QUANTILES):
        yield ValidationBatch(
            language=language, quantile=quantile, batch=batch, noise=noise, time=(quantile + offsets) / NUM_QUANTILES
        )


def _make_noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
