"""Captions as inputs of the two text encoders: token ids, or states from the cache.

B batch, L text tokens, T width of a text encoder's states.
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

CHOICES_KEY, MAX_TIME_KEY = "choice_intervals", "max_time"
TEXT_KEYS = ("ids", "mask", "ids_t5", "mask_t5")
STATE_KEYS = {"text_encoder": ("embeds", "mask"), "text_encoder_2": ("embeds_t5", "mask_t5")}  # keys of a batch
TOKEN_KEYS = {"text_encoder": ("ids", "mask"), "text_encoder_2": ("ids_t5", "mask_t5")}


class BilingualCaptionEncoder:
    """A CaptionEncoder that picks the Chinese, the English or no caption, and returns token ids (B, L)."""

    def __init__(self, model: TextToImageModelConfig, objective: TextToImageObjectiveConfig) -> None:
        assert model.tokenizers is not None, "the tokenizers are made before the task"
        self.tokenizer = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer")
        self.tokenizer_2 = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer_2")
        self.fast_tokenizers = (
            make_fixed_length_tokenizer(self.tokenizer, model.text_len),
            make_fixed_length_tokenizer(self.tokenizer_2, model.text_len_t5),
        )
        self.zh_probability, self.caption_dropout = objective.zh_probability, objective.caption_dropout
        self.couple_choices = objective.couple_choices
        self.random_placement_max_time = objective.random_placement_max_time
        self.motion_control_sampler: MotionControlSampler | None = None
        if max_regions := model.transformer.max_regions:
            self.motion_control_sampler = MotionControlSampler(
                self.tokenizer, objective, max_regions=max_regions, phrase_len=model.phrase_len
            )

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """Encode the captions of samples, and for `couple_choices` of images, what the captions leave open.

        With `random_placement_max_time` below 1, max_time (B,) is the fraction of the times that an image takes.

        Of `uniforms` (B, 2) on [0, 1), the first column decides on caption dropout, the second on the language.
        """
        if kind == "controlled":
            assert self.motion_control_sampler is not None, "checked in the run file"
            texts, batch = self.motion_control_sampler(samples, uniforms)
            return self.encode(texts) | batch
        texts = [
            self._choose_caption(sample, dropout=dropout, language=language)
            for sample, (dropout, language) in zip(samples, uniforms, strict=True)
        ]
        batch = self.encode(texts)
        if kind == "image" and self.couple_choices:
            batch[CHOICES_KEY] = torch.tensor([sample.choice_intervals for sample in samples], dtype=torch.float64)
        if kind == "image" and self.random_placement_max_time < 1:
            max_times = [1.0 if sample.scene.is_canonical else self.random_placement_max_time for sample in samples]
            batch[MAX_TIME_KEY] = torch.tensor(max_times)
        if kind == "clip" and self.motion_control_sampler is not None:
            batch |= self.motion_control_sampler.make_empty(uniforms, size_px=samples[0].frames.shape[1])
        return batch

    def _choose_caption(self, sample: Any, *, dropout: float, language: float) -> str:
        if dropout < self.caption_dropout:
            return ""
        return sample.text_zh if language < self.zh_probability else sample.text_en

    def encode(self, texts: Sequence[str]) -> Batch:
        """Token ids and masks (B, L) for both encoders, under TEXT_KEYS, padded to their fixed lengths."""
        (ids, mask), (ids_t5, mask_t5) = [tokenize_batch(tokenizer, texts) for tokenizer in self.fast_tokenizers]
        return {"ids": ids, "mask": mask, "ids_t5": ids_t5, "mask_t5": mask_t5}


def make_fixed_length_tokenizer(tokenizer: PreTrainedTokenizerBase, length: int) -> Tokenizer:
    """A copy of a tokenizer's Rust backend that pads and truncates to a fixed length.

    It takes half the time of `tokenizer(texts, return_tensors="pt")`.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return backend


def tokenize_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, L) from a fixed-length tokenizer."""
    assert tokenizer.padding is not None, "made by make_fixed_length_tokenizer"
    ids = torch.tensor([tokens.ids for tokens in tokenizer.encode_batch_fast(list(texts))])
    return ids, (ids != tokenizer.padding["pad_id"]).long()


class CachedStateBatcher:
    """A CaptionBatcher that reads text-encoder states (B, L, T) and masks (B, L) from the cache, under STATE_KEYS."""

    def __init__(self, latent_cache: LatentCache) -> None:
        self.latent_cache = latent_cache

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, keys), encoder_texts in zip(STATE_KEYS.items(), zip(*texts, strict=True), strict=True):
            states = [self.latent_cache.load_text_states(text, encoder) for text in encoder_texts]
            batch |= {key: torch.stack(tensors) for key, tensors in zip(keys, zip(*states, strict=True), strict=True)}
        return batch


class TokenBatcher:
    """A CaptionBatcher that returns token ids and masks (B, L), under TOKEN_KEYS."""

    def __init__(self, folder: Path, lengths: dict[str, int]) -> None:
        self.fast_tokenizers = {
            encoder: make_fixed_length_tokenizer(
                AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDERS[encoder]), lengths[encoder]
            )
            for encoder in TEXT_ENCODER_CLASSES
        }

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, keys), encoder_texts in zip(TOKEN_KEYS.items(), zip(*texts, strict=True), strict=True):
            batch |= dict(zip(keys, tokenize_batch(self.fast_tokenizers[encoder], encoder_texts), strict=True))
        return batch
