"""Clicks on the films of data sets: one region a film, what it is asked to do, and whether the first frame is shown.

B batch, C latent channels, R regions, M tokens of a motion phrase, T width of the text states; latents are B C F Y X.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.dit import Click
from dianjing.train.data import Batch
from dianjing.train.finetune.sections import FinetuneObjective
from dianjing.train.finetune.texts import Say
from dianjing.train.sets.entries import Entry

PHRASE = "phrase_"  # before the names of what the first encoder reads of the motions


class Draw(NamedTuple):
    shows_first: bool
    has_caption: bool
    is_chinese: bool


def click_draw(entry: Entry, chances: Sequence[float], objective: FinetuneObjective) -> Draw:
    """What is shown and said of a film; chances are on [0, 1).

    A click that hides the first frame has a caption, which then says what is in it (Follow-Your-Click's first-frame
    masking).
    """
    first, said, language = chances
    if entry.click is None:
        return Draw(first < objective.clips_continued, True, False)
    is_hidden = first < objective.first_frame_masking
    is_chinese = entry.click.motion_en is None or (entry.click.motion_zh is not None and language < objective.chinese)
    return Draw(not is_hidden, is_hidden or said < objective.click_captions, is_chinese)


def click_batch(entries: Sequence[Entry], pictures: Sequence[Batch], draws: Sequence[Draw], *, say: Say) -> Batch:
    """As "clicked" (B, 1, H, W), "strengths" (B, 1), "asked" and "shows_first" (B,), and motions as `say` has them."""
    height, width = next((p["clicked"].shape for p in pictures if "clicked" in p), (1, 1))
    nothing = {"clicked": torch.zeros(height, width), "strength": torch.tensor(0.0)}
    found = [nothing | picture for picture in pictures]
    motions = [
        "" if entry.click is None else (entry.click.motion_zh if draw.is_chinese else entry.click.motion_en) or ""
        for entry, draw in zip(entries, draws, strict=True)
    ]
    return {
        "clicked": torch.stack([each["clicked"] for each in found])[:, None],
        "strengths": torch.stack([each["strength"] for each in found])[:, None].float(),
        "asked": torch.tensor([entry.click is not None for entry in entries]),
        "shows_first": torch.tensor([draw.shows_first for draw in draws]),
        **{PHRASE + name: tensor for name, tensor in say([(motion, "") for motion in motions]).items()},
    }


def make_click(batch: Batch, phrases: Tensor, mask: Tensor, *, latents: Tensor, max_regions: int) -> Click:
    """From `click_batch`, with states (B, M, T) and mask (B, M) of the motions; all regions but the first are empty."""
    rows, (height, width) = len(latents), latents.shape[-2:]
    covered = adaptive_avg_pool2d(batch["clicked"].to(latents), (height, width))
    mask = mask * batch["asked"][:, None]

    def first_of_many(tensor: Tensor) -> Tensor:
        """(B, ...) -> (B, R, ...)"""
        empty = tensor.new_zeros(rows, max_regions - 1, *tensor.shape[1:])
        return torch.cat([tensor[:, None], empty], dim=1)

    return Click(
        first_frame=latents[:, :, 0] * batch["shows_first"].to(latents)[:, None, None, None],
        masks=first_of_many(covered[:, 0]),
        phrases=first_of_many(phrases),
        phrases_mask=first_of_many(mask),
        strengths=first_of_many(batch["strengths"][:, 0]),
    )
