"""Captions of samples as the token ids of both text encoders.

B batch, L text tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dianjing.train.config.text_to_image import TextToImageModelConfig, TextToImageObjectiveConfig
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES, TOKENIZER_FOLDERS, LatentCache
from dianjing.train.data.motion_control import MotionControlSampler
from dianjing.train.data.samples import Batch

TEXT_KEYS = ("ids", "mask", "ids_t5", "mask_t5")


class BilingualCaptionEncoder:
    """Captions of one language or the other, or none, as the token ids of both encoders."""

    def __init__(self, model: TextToImageModelConfig, objective: TextToImageObjectiveConfig) -> None:
        assert model.tokenizers is not None, "the tokenizers are made before the task"
        self.tokenizer = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer")
        self.tokenizer_2 = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer_2")
        self.fast_tokenizers = (
            make_fixed_length_tokenizer(self.tokenizer, model.text_len),
            make_fixed_length_tokenizer(self.tokenizer_2, model.text_len_t5),
        )
        self.zh_probability, self.caption_dropout = objective.zh_probability, objective.caption_dropout
        self.motion_control_sampler: MotionControlSampler | None = None
        if regions := model.transformer.max_regions:
            self.motion_control_sampler = MotionControlSampler(
                self.tokenizer, objective, max_regions=regions, phrase_len=model.phrase_len
            )

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """draws (B, 2) on [0, 1): the first decides on dropout, the second on the language."""
        if kind == "controlled":
            assert self.motion_control_sampler is not None, "checked in the run file"
            texts, batch = self.motion_control_sampler(samples, uniforms)
            return self.encode(texts) | batch
        texts = [
            ""
            if dropped < self.caption_dropout
            else sample.text_zh
            if language < self.zh_probability
            else sample.text_en
            for sample, (dropped, language) in zip(samples, uniforms, strict=True)
        ]
        batch = self.encode(texts)
        if kind == "clip" and self.motion_control_sampler is not None:
            batch |= self.motion_control_sampler.make_empty(uniforms, size_px=samples[0].frames.shape[1])
        return batch

    def encode(self, texts: Sequence[str]) -> Batch:
        """ids and masks (B, L) of both encoders, padded to their fixed lengths."""
        (ids, mask), (ids_t5, mask_t5) = [tokenize_batch(core, texts) for core in self.fast_tokenizers]
        return {"ids": ids, "mask": mask, "ids_t5": ids_t5, "mask_t5": mask_t5}


def make_fixed_length_tokenizer(tokenizer: PreTrainedTokenizerBase, length: int) -> Tokenizer:
    """Its own core, which takes half the time of tokenizer(texts, return_tensors="pt")."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.enable_truncation(length)
    core.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return core


def tokenize_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    assert tokenizer.padding is not None, "made by fixed_length"
    ids = torch.tensor([tokens.ids for tokens in tokenizer.encode_batch_fast(list(texts))])
    return ids, (ids != tokenizer.padding["pad_id"]).long()


STATE_KEYS = {"text_encoder": ("embeds", "mask"), "text_encoder_2": ("embeds_t5", "mask_t5")}  # names in a batch
TOKEN_KEYS = {"text_encoder": ("ids", "mask"), "text_encoder_2": ("ids_t5", "mask_t5")}


class CachedStateBatcher:
    """States (B, L, T) and masks (B, L), under the names of STATES."""

    def __init__(self, latent_cache: LatentCache) -> None:
        self.latent_cache = latent_cache

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, names), read in zip(STATE_KEYS.items(), zip(*texts, strict=True), strict=True):
            found = zip(*(self.latent_cache.load_text_states(text, encoder) for text in read), strict=True)
            batch |= {name: torch.stack(tensors) for name, tensors in zip(names, found, strict=True)}
        return batch


class TokenBatcher:
    """Token ids and masks (B, L), under the names of TOKENS."""

    def __init__(self, folder: Path, lengths: dict[str, int]) -> None:
        self.fast_tokenizers = {
            encoder: make_fixed_length_tokenizer(
                AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDERS[encoder]), lengths[encoder]
            )
            for encoder in TEXT_ENCODER_CLASSES
        }

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, names), read in zip(TOKEN_KEYS.items(), zip(*texts, strict=True), strict=True):
            batch |= dict(zip(names, tokenize_batch(self.fast_tokenizers[encoder], read), strict=True))
        return batch
