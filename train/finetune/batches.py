"""Batches of a fine-tuning: latents and text states read from the cache."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from dianjing.train.data import Batch
from dianjing.train.finetune.clicking import click_batch, click_draw
from dianjing.train.finetune.encoding import Encoded
from dianjing.train.finetune.sections import FinetuneObjective
from dianjing.train.finetune.texts import Say
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.plan import FilePlan, FileSample
from dianjing.train.sets.shapes import frames_of
from dianjing.train.sets.skipping import Skips


class EncodedBatches(Dataset[Batch]):
    """Pictures of data sets, as their "latents" (B, C, Y, X), and what is said of them as `say` has it.

    With line art where that is encoded: "control" (B, C, Y, X).
    """

    def __init__(
        self, plan: FilePlan, encoded: Encoded, objective: FinetuneObjective, *, say: Say, seed: int, skips: Skips
    ) -> None:
        self.plan, self.encoded, self.objective, self.say = plan, encoded, objective, say
        self.seed, self.skips = seed, skips

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.plan.accumulation)
        layout = self.plan.at(step).layout
        rows = layout.rows(micro)
        samples, pictures = zip(*(self._readable(step, row) for row in range(rows.start, rows.stop)), strict=True)
        draws = np.random.default_rng((self.seed, step)).random((layout.global_batch, 3))[rows]
        texts = [caption(sample.entry, draw, self.objective) for sample, draw in zip(samples, draws, strict=True)]
        batch = stacked(pictures)
        if frames_of(samples[0].shape) == 1:
            return batch | self.say(texts)
        chances = np.random.default_rng((self.seed, step, 1)).random((layout.global_batch, 3))[rows]
        films = [sample.entry for sample in samples]
        shown = [click_draw(film, chance, self.objective) for film, chance in zip(films, chances, strict=True)]
        texts = [text if draw.has_caption else ("", "") for text, draw in zip(texts, shown, strict=True)]
        return batch | self.say(texts) | click_batch(films, pictures, shown, say=self.say)

    def _readable(self, step: int, row: int) -> tuple[FileSample, Batch]:
        """What is due, with its latents; in place of what cannot be read the next picture of its shape.

        Raises: ValueError where too many cannot.
        """
        after = 0
        while True:
            sample = self.plan.sample(step, row, after=after)
            try:
                return sample, self.encoded.picture(sample.entry, sample.shape)
            except ValueError as error:
                self.skips.add(sample.entry.name, str(error))
            after += 1


PICTURE_KEYS = {"latents", "control"}


def caption(entry: Entry, draws: Sequence[float], objective: FinetuneObjective) -> tuple[str, str]:
    """What each encoder reads; draws on [0, 1) decide on the language and, for each encoder, on dropout."""
    language, dropped, dropped_t5 = draws
    both = (entry.text_zh, entry.text_en) if language < objective.chinese else (entry.text_en, entry.text_zh)
    text = both[0] or both[1] or ""
    return (
        "" if dropped < objective.caption_dropout else text,
        "" if dropped_t5 < objective.caption_dropout_t5 else text,
    )


def stacked(pictures: Sequence[Batch]) -> Batch:
    """Latents and line art; what is clicked on is not of every film."""
    return {name: torch.stack([picture[name] for picture in pictures]) for name in PICTURE_KEYS & pictures[0].keys()}


def texts_of(pictures: Sequence[Entry]) -> set[str]:
    """Everything that may be said of them or asked of what is in them, and nothing."""
    asked = (entry.click for entry in pictures if entry.click is not None)
    motions = {text for click in asked for text in (click.motion_zh, click.motion_en) if text}
    return {"", *motions, *(text for entry in pictures for text in (entry.text_zh, entry.text_en) if text)}
