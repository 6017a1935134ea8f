"""Captions of samples as the token ids of both text encoders.

B batch, L text tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dianjing.train.clicks import Clicks
from dianjing.train.data import Batch
from dianjing.train.sections import TextToImageModel, TextToImageObjective

TEXT_KEYS = ("ids", "mask", "ids_t5", "mask_t5")


class BilingualCaptions:
    """Captions of one language or the other, or none, as the token ids of both encoders."""

    def __init__(self, model: TextToImageModel, objective: TextToImageObjective) -> None:
        assert model.tokenizers is not None, "the tokenizers are made before the task"
        self.tokenizer = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer")
        self.tokenizer_2 = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer_2")
        self.cores = (
            fixed_length(self.tokenizer, model.text_len),
            fixed_length(self.tokenizer_2, model.text_len_t5),
        )
        self.chinese, self.dropout = objective.chinese, objective.caption_dropout
        self.clicks: Clicks | None = None
        if regions := model.transformer.max_regions:
            self.clicks = Clicks(self.tokenizer, objective, max_regions=regions, phrase_len=model.phrase_len)

    def __call__(self, samples: Sequence[Any], draws: np.ndarray, *, kind: str) -> Batch:
        """draws (B, 2) on [0, 1): the first decides on dropout, the second on the language."""
        if kind == "click":
            assert self.clicks is not None, "checked in the run file"
            texts, batch = self.clicks(samples, draws)
            return self.encode(texts) | batch
        texts = [
            "" if dropped < self.dropout
            else sample.text_zh if language < self.chinese
            else sample.text_en
            for sample, (dropped, language) in zip(samples, draws, strict=True)
        ]  # fmt: skip
        batch = self.encode(texts)
        if kind == "clip" and self.clicks is not None:
            batch |= self.clicks.nothing(draws, size_px=samples[0].frames.shape[1])
        return batch

    def encode(self, texts: Sequence[str]) -> Batch:
        """ids and masks (B, L) of both encoders, padded to their fixed lengths."""
        (ids, mask), (ids_t5, mask_t5) = [tokens_of(core, texts) for core in self.cores]
        return {"ids": ids, "mask": mask, "ids_t5": ids_t5, "mask_t5": mask_t5}


def fixed_length(tokenizer: PreTrainedTokenizerBase, length: int) -> Tokenizer:
    """Its own core, which takes half the time of tokenizer(texts, return_tensors="pt")."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.enable_truncation(length)
    core.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return core


def tokens_of(core: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    assert core.padding is not None, "made by fixed_length"
    ids = torch.tensor([tokens.ids for tokens in core.encode_batch_fast(list(texts))])
    return ids, (ids != core.padding["pad_id"]).long()
