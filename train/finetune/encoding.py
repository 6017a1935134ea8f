"""Latents and text states, computed once into a cache: one encoder in memory at a time, the work dealt out to ranks.

L text tokens, T width of an encoder's states; latents are C Y X.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.pipelines.fitting import fit
from dianjing.pipelines.text import encode
from dianjing.train.caches import Cache, fingerprint, key_of
from dianjing.train.pictures import to_pixels
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.looking import decode
from dianjing.train.sets.shapes import Shape

ENCODERS: dict[str, type[BertModel] | type[T5EncoderModel]] = {
    "text_encoder": BertModel,
    "text_encoder_2": T5EncoderModel,
}
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
TEXTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of the work: every `processes`-th piece, from `rank` on."""

    rank: int = 0
    processes: int = 1

    def of(self, pieces: Sequence) -> Sequence:
        return pieces[self.rank :: self.processes]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Where the latents and text states of one model and precision are kept; lengths in tokens, by encoder."""

    cache: Cache
    folder: Path  # of the model
    dtype: torch.dtype
    lengths: Mapping[str, int]
    fingerprints: Mapping[str, str]  # of "vae" and of both text encoders with their tokenizers

    @classmethod
    def of(cls, folder: Path, cache: Cache, *, dtype: torch.dtype, lengths: Mapping[str, int]) -> "Encoded":
        fingerprints = {name: fingerprint([folder / name, folder / TOKENIZERS[name]]) for name in ENCODERS}
        fingerprints["vae"] = fingerprint([folder / "vae"])
        return cls(cache=cache, folder=folder, dtype=dtype, lengths=lengths, fingerprints=fingerprints)

    def latents(self, entry: Entry, shape: Shape) -> Tensor:
        """(C, Y, X), scaled as the transformer takes them."""
        return self.cache.read(self._latents_key(entry, shape))["latents"]

    def holds(self, entry: Entry, shape: Shape) -> bool:
        return self._latents_key(entry, shape) in self.cache

    def states(self, text: str, encoder: str) -> tuple[Tensor, Tensor]:
        """(L, T) and mask (L,)."""
        found = self.cache.read(self._states_key(text, encoder))
        return found["states"], found["mask"]

    @torch.no_grad()
    def fill_latents(self, pictures: Mapping[Shape, Sequence[Entry]], *, device: torch.device, share: Share) -> None:
        """What changed since it was looked at, and cannot be read any more, stays missing."""
        missing = [
            (entry, shape) for shape, entries in pictures.items() for entry in entries if not self.holds(entry, shape)
        ]
        mine = share.of(missing)
        if not mine:
            return
        vae = AutoencoderKL.from_pretrained(self.folder / "vae", torch_dtype=self.dtype).to(device)
        for entry, shape in tqdm(mine, desc="latents", unit="picture"):
            height, width = shape
            try:
                picture, _ = fit(decode(entry.source, name=entry.name), height=height, width=width)
            except ValueError as error:
                tqdm.write(f"not encoded: {error}", file=sys.stderr)
                continue
            pixels = to_pixels(torch.from_numpy(np.asarray(picture)[None].copy()).to(device))
            latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor
            self.cache.write(self._latents_key(entry, shape), {"latents": latents})

    @torch.no_grad()
    def fill_states(self, texts: Iterable[str], *, device: torch.device, share: Share) -> None:
        """Of both encoders, one after the other."""
        every = sorted(set(texts))
        for name, kind in ENCODERS.items():
            missing = share.of([text for text in every if self._states_key(text, name) not in self.cache])
            if not missing:
                continue
            encoder = kind.from_pretrained(self.folder / name, dtype=self.dtype).to(device)
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder / TOKENIZERS[name])
            for first in tqdm(range(0, len(missing), TEXTS_AT_ONCE), desc=name, unit="batch"):
                batch = missing[first : first + TEXTS_AT_ONCE]
                states = encode(encoder, tokenizer, batch, length=self.lengths[name], device=device)
                for text, embeds, mask in zip(batch, states.embeds, states.mask, strict=True):
                    self.cache.write(self._states_key(text, name), {"states": embeds, "mask": mask})
            del encoder

    def _latents_key(self, entry: Entry, shape: Shape) -> str:
        assert entry.digest is not None, "pictures are looked at before they are encoded"
        return key_of(
            picture=entry.digest, shape=shape, vae=self.fingerprints["vae"], dtype=str(self.dtype), fit="filled"
        )  # fmt: skip

    def _states_key(self, text: str, encoder: str) -> str:
        return key_of(
            text=text, encoder=self.fingerprints[encoder], length=self.lengths[encoder], dtype=str(self.dtype)
        )
