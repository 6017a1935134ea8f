"""Pictures kept out of training, and what they are measured at: always the same noise, by timestep and language.

B batch; latents are (B, C, Y, X).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.train.data.buckets import BucketShape
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.latent_batches import stack_latents
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord

NUM_QUANTILES = 4  # of the timesteps
MAX_VALIDATION_RECORDS = 64  # pictures measured
VALIDATION_BATCH_SIZE = 16
GOLDEN_RATIO_CONJUGATE = 0.6180339887498949  # spreads positions evenly, however many there are
LANGUAGES = ("zh", "en")


@dataclass(frozen=True, kw_only=True)
class ValidationBatch:
    """Some held-out pictures of one shape in one language, in one quantile of the timesteps."""

    language: str
    quantile: int
    batch: Batch
    noise: Tensor
    time: Tensor


def split_validation(
    index: DatasetIndex, fraction: float
) -> tuple[DatasetIndex, dict[BucketShape, list[SampleRecord]]]:
    """What is trained on and what is not: each picture's own bytes decide, whatever the others are.

    Raises: ValueError where none is left to train on, or none is held out though some should be.
    """
    if not fraction:
        return index, {}
    kept = replace(index, records={}, repeats={})
    held: dict[BucketShape, list[SampleRecord]] = {}
    for shape, entries in index.records.items():
        for entry, repeats in zip(entries, index.repeats[shape], strict=True):
            assert entry.digest is not None
            if int(entry.digest[:8], 16) / 2**32 < fraction:
                held.setdefault(shape, []).append(entry)
            else:
                kept.records.setdefault(shape, []).append(entry)
                kept.repeats.setdefault(shape, []).append(repeats)
    if not kept.records or not held:
        raise ValueError(
            f"data.validation_fraction = {fraction} parts {index.count} pictures into all and none; change it"
        )
    return kept, held


def iterate_validation_batches(
    validation_records: Mapping[BucketShape, Sequence[SampleRecord]],
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
) -> Iterator[ValidationBatch]:
    """All that is measured, in batches."""
    encodable = [
        (s, entry) for s, entries in validation_records.items() for entry in entries if latent_cache.contains(entry, s)
    ]
    chosen = encodable[:MAX_VALIDATION_RECORDS]
    for language in LANGUAGES:
        for shape in validation_records:
            said = [e for s, e in chosen if s == shape and getattr(e, f"text_{language}") is not None]
            for first in range(0, len(said), VALIDATION_BATCH_SIZE):
                yield from _iterate_quantiles(
                    said[first : first + VALIDATION_BATCH_SIZE], shape, language, latent_cache, caption_batcher
                )


def _iterate_quantiles(
    records: Sequence[SampleRecord],
    shape: BucketShape,
    language: str,
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
) -> Iterator[ValidationBatch]:
    texts = [getattr(entry, f"text_{language}") for entry in records]
    batch = stack_latents([latent_cache.load_latents(entry, shape) for entry in records]) | caption_batcher(
        [(text, text) for text in texts]
    )
    seeds = [int((entry.digest or "0")[:15], 16) for entry in records]
    noise = torch.stack([_make_noise(seed, batch["latents"].shape[1:]) for seed in seeds])
    inside = torch.tensor([seed * GOLDEN_RATIO_CONJUGATE % 1 for seed in seeds])
    for quantile in range(NUM_QUANTILES):
        yield ValidationBatch(
            language=language, quantile=quantile, batch=batch, noise=noise, time=(quantile + inside) / NUM_QUANTILES
        )


def _make_noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
