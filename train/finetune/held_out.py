"""Pictures kept out of training, and what they are measured at: always the same noise, by timestep and language.

B batch; latents are (B, C, Y, X).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.train.data import Batch
from dianjing.train.finetune.batches import stacked
from dianjing.train.finetune.encoding import Encoded
from dianjing.train.finetune.texts import Say
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.gathering import Gathered
from dianjing.train.sets.shapes import Shape

QUANTILES = 4  # of the timesteps
MOST = 64  # pictures measured
AT_ONCE = 16
GOLDEN = 0.6180339887498949  # spreads positions evenly, however many there are
LANGUAGES = ("zh", "en")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some held-out pictures of one shape in one language, in one quantile of the timesteps."""

    language: str
    quantile: int
    batch: Batch
    noise: Tensor
    positions: Tensor


def split(gathered: Gathered, share: float) -> tuple[Gathered, dict[Shape, list[Entry]]]:
    """What is trained on and what is not: each picture's own bytes decide, whatever the others are.

    Raises: ValueError where none is left to train on, or none is held out though some should be.
    """
    if not share:
        return gathered, {}
    kept = replace(gathered, pictures={}, repeats={})
    held: dict[Shape, list[Entry]] = {}
    for shape, entries in gathered.pictures.items():
        for entry, repeats in zip(entries, gathered.repeats[shape], strict=True):
            assert entry.digest is not None
            if int(entry.digest[:8], 16) / 2**32 < share:
                held.setdefault(shape, []).append(entry)
            else:
                kept.pictures.setdefault(shape, []).append(entry)
                kept.repeats.setdefault(shape, []).append(repeats)
    if not kept.pictures or not held:
        raise ValueError(f"data.held_out = {share} parts {gathered.count} pictures into all and none; change it")
    return kept, held


def parts(held: Mapping[Shape, Sequence[Entry]], encoded: Encoded, say: Say) -> Iterator[Part]:
    """All that is measured, in batches."""
    encodable = [(s, entry) for s, entries in held.items() for entry in entries if encoded.holds(entry, s)]
    chosen = encodable[:MOST]
    for language in LANGUAGES:
        for shape in held:
            said = [e for s, e in chosen if s == shape and getattr(e, f"text_{language}") is not None]
            for first in range(0, len(said), AT_ONCE):
                yield from _quantiles(said[first : first + AT_ONCE], shape, language, encoded, say)


def _quantiles(entries: Sequence[Entry], shape: Shape, language: str, encoded: Encoded, say: Say) -> Iterator[Part]:
    texts = [getattr(entry, f"text_{language}") for entry in entries]
    batch = stacked([encoded.picture(entry, shape) for entry in entries]) | say([(text, text) for text in texts])
    seeds = [int((entry.digest or "0")[:15], 16) for entry in entries]
    noise = torch.stack([_noise(seed, batch["latents"].shape[1:]) for seed in seeds])
    inside = torch.tensor([seed * GOLDEN % 1 for seed in seeds])
    for quantile in range(QUANTILES):
        yield Part(
            language=language, quantile=quantile, batch=batch, noise=noise, positions=(quantile + inside) / QUANTILES
        )


def _noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
