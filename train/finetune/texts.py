"""What is said of pictures, as a batch: states from the cache, or tokens for encoders that are trained.

B batch, L text tokens, T width of an encoder's states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoTokenizer

from dianjing.train.data import Batch
from dianjing.train.finetune.encoding import ENCODERS, TOKENIZERS, Encoded
from dianjing.train.texts import fixed_length, tokens_of

STATES = {"text_encoder": ("embeds", "mask"), "text_encoder_2": ("embeds_t5", "mask_t5")}  # names in a batch
TOKENS = {"text_encoder": ("ids", "mask"), "text_encoder_2": ("ids_t5", "mask_t5")}


class Say(Protocol):
    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        """B texts, as the first encoder reads them and as the second one does."""


class CachedStates:
    """States (B, L, T) and masks (B, L), under the names of STATES."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, names), read in zip(STATES.items(), zip(*texts, strict=True), strict=True):
            found = zip(*(self.encoded.states(text, encoder) for text in read), strict=True)
            batch |= {name: torch.stack(tensors) for name, tensors in zip(names, found, strict=True)}
        return batch


class Tokens:
    """Token ids and masks (B, L), under the names of TOKENS."""

    def __init__(self, folder: Path, lengths: dict[str, int]) -> None:
        self.cores = {
            encoder: fixed_length(AutoTokenizer.from_pretrained(folder / TOKENIZERS[encoder]), lengths[encoder])
            for encoder in ENCODERS
        }

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        batch: Batch = {}
        for (encoder, names), read in zip(TOKENS.items(), zip(*texts, strict=True), strict=True):
            batch |= dict(zip(names, tokens_of(self.cores[encoder], read), strict=True))
        return batch
