"""Clicks in training: what is asked of which object of a clip, as tensors.

B batch, F frames, K objects, R regions, M tokens of a motion phrase; latents are B C F Y X.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import PreTrainedTokenizerBase

from dianjing.dit import Click
from dianjing.train.data import Batch, ClipSample
from dianjing.train.sections import TextToImageObjective

CLICK_KEYS = ("click_masks", "phrase_ids", "phrase_mask", "asked", "strengths", "shows_first")


class Clicks:
    """Clips to click tensors: a region for each moving object in random order, the rest empty."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, objective: TextToImageObjective, *, max_regions: int, phrase_len: int
    ) -> None:
        self.tokenizer, self.objective = tokenizer, objective
        self.max_regions, self.phrase_len = max_regions, phrase_len
        self.told_side: int | None = None  # latents along a side, where the ways back are told too

    def __call__(self, clips: Sequence[ClipSample], draws: np.ndarray) -> tuple[list[str], Batch]:
        """Captions, often none, and the tensors of CLICK_KEYS; draws (B, 2) are uniform on [0, 1).

        Where ways back are told, also "ways_back" (B, R, F, Y, X, 2), as `ClipSample.ways_back` has them.
        Where the first frame is hidden (Follow-Your-Click's first-frame masking) the caption says what is in it.
        """
        masks = np.zeros((len(clips), self.max_regions, *clips[0].masks.shape[2:]), np.float32)
        strengths, asked = np.zeros((2, len(clips), self.max_regions), np.float32)
        shows_first = np.ones(len(clips), np.float32)
        captions, phrases = [], [""] * (len(clips) * self.max_regions)
        ways = None
        if (side := self.told_side) is not None:
            shape = (len(clips), self.max_regions, len(clips[0].frames), side, side, 2)
            ways = np.full(shape, np.nan, np.float32)
        for row, (clip, draw) in enumerate(zip(clips, draws, strict=True)):
            rng = random.Random(repr(tuple(draw)))
            language = 0 if rng.random() < self.objective.chinese else 1
            is_hidden = rng.random() < self.objective.first_frame_masking
            is_silent = rng.random() < self.objective.caption_dropout
            has_caption = not is_silent and (is_hidden or rng.random() < self.objective.click_captions)
            captions.append((clip.text_zh, clip.text_en)[language] if has_caption else "")
            shows_first[row] = not is_hidden
            moving = [k for k, phrase in enumerate(clip.phrases) if phrase is not None]
            rng.shuffle(moving)
            for region, k in enumerate(moving[: self.max_regions]):
                masks[row, region] = clip.masks[0, k]
                strengths[row, region] = clip.strengths[k]
                asked[row, region] = not is_silent
                if ways is not None and side is not None and not is_silent:
                    ways[row, region] = clip.ways_back(k, side)
                phrasings = clip.phrases[k]
                assert phrasings is not None
                phrases[row * self.max_regions + region] = rng.choice(phrasings[language])
        tensors = self._tensors(masks, phrases, asked, strengths, shows_first)
        return captions, tensors if ways is None else tensors | {"ways_back": torch.from_numpy(ways)}

    def nothing(self, draws: np.ndarray, *, size_px: int) -> Batch:
        """The tensors of clips that are told in words; some show their first frame, to be continued from."""
        count = len(draws)
        masks = np.zeros((count, self.max_regions, size_px, size_px), np.float32)
        asked, strengths = np.zeros((2, count, self.max_regions), np.float32)
        shows_first = np.array([random.Random(repr(tuple(draw))).random() for draw in draws])
        shows_first = (shows_first < self.objective.clips_continued).astype(np.float32)
        return self._tensors(masks, [""] * (count * self.max_regions), asked, strengths, shows_first)

    def _tensors(
        self, masks: np.ndarray, phrases: list[str], asked: np.ndarray, strengths: np.ndarray, shows_first: np.ndarray
    ) -> Batch:
        tokens = self.tokenizer(
            phrases, padding="max_length", max_length=self.phrase_len, truncation=True, return_tensors="pt"
        )
        shape = (len(masks), self.max_regions, self.phrase_len)
        tensors = (
            torch.from_numpy(masks), tokens.input_ids.reshape(shape), tokens.attention_mask.reshape(shape),
            torch.from_numpy(asked), torch.from_numpy(strengths), torch.from_numpy(shows_first),
        )  # fmt: skip
        return dict(zip(CLICK_KEYS, tensors, strict=True))


def make_click(text_encoder: nn.Module, first_frame: Tensor, tensors: Sequence[Tensor]) -> Click:
    """A click on first_frame (B, C, Y, X), from the tensors of CLICK_KEYS."""
    masks, ids, mask, asked, strengths, shows_first = tensors
    height, width = first_frame.shape[-2:]
    states = text_encoder(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
    return Click(
        first_frame=first_frame * shows_first[:, None, None, None],
        masks=adaptive_avg_pool2d(masks, (height, width)),  # the share of each latent that is covered
        phrases=states.unflatten(0, ids.shape[:2]),
        phrases_mask=mask * (asked > 0).unsqueeze(-1),
        strengths=strengths,
    )
