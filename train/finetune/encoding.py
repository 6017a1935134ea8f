"""Latents and text states, computed once into a cache: one encoder in memory at a time, the work dealt out to ranks.

L text tokens, T width of an encoder's states; latents are C Y X.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.pipelines.fitting import fit
from dianjing.pipelines.line_art import THRESHOLDS, line_art
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
    draws_lines: bool = False  # the line art of every picture is encoded too

    @classmethod
    def of(
        cls, folder: Path, cache: Cache, *, dtype: torch.dtype, lengths: Mapping[str, int], draws_lines: bool = False
    ) -> "Encoded":
        fingerprints = {name: fingerprint([folder / name, folder / TOKENIZERS[name]]) for name in ENCODERS}
        fingerprints["vae"] = fingerprint([folder / "vae"])
        return cls(
            cache=cache, folder=folder, dtype=dtype, lengths=lengths, fingerprints=fingerprints, draws_lines=draws_lines
        )

    def picture(self, entry: Entry, shape: Shape) -> dict[str, Tensor]:
        """ "latents" (C, Y, X), scaled as the transformer takes them, and where lines are drawn theirs as "control"."""
        kinds = {"latents": False, "control": True} if self.draws_lines else {"latents": False}
        return {
            name: self.cache.read(self._latents_key(entry, shape, is_line_art=kind))["latents"]
            for name, kind in kinds.items()
        }

    def holds(self, entry: Entry, shape: Shape) -> bool:
        return not list(self._missing(entry, shape))

    def _missing(self, entry: Entry, shape: Shape) -> Iterator[bool]:
        """Of the picture, and of its line art: whether it is the line art that is not there."""
        for is_line_art in (False, True) if self.draws_lines else (False,):
            if self._latents_key(entry, shape, is_line_art=is_line_art) not in self.cache:
                yield is_line_art

    def states(self, text: str, encoder: str) -> tuple[Tensor, Tensor]:
        """(L, T) and mask (L,)."""
        found = self.cache.read(self._states_key(text, encoder))
        return found["states"], found["mask"]

    @torch.no_grad()
    def fill_latents(self, pictures: Mapping[Shape, Sequence[Entry]], *, device: torch.device, share: Share) -> None:
        """What changed since it was looked at, and cannot be read any more, stays missing."""
        missing = [
            (entry, shape, is_line_art)
            for shape, entries in pictures.items()
            for entry in entries
            for is_line_art in self._missing(entry, shape)
        ]
        mine = share.of(missing)
        if not mine:
            return
        vae = AutoencoderKL.from_pretrained(self.folder / "vae", torch_dtype=self.dtype).to(device)
        for entry, shape, is_line_art in tqdm(mine, desc="latents", unit="picture"):
            height, width = shape
            try:
                picture, _ = fit(decode(entry.source, name=entry.name), height=height, width=width)
            except ValueError as error:
                tqdm.write(f"not encoded: {error}", file=sys.stderr)
                continue
            picture = line_art(picture) if is_line_art else picture
            pixels = to_pixels(torch.from_numpy(np.asarray(picture)[None].copy()).to(device))
            latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()[0] * vae.config.scaling_factor
            self.cache.write(self._latents_key(entry, shape, is_line_art=is_line_art), {"latents": latents})

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

    def _latents_key(self, entry: Entry, shape: Shape, *, is_line_art: bool) -> str:
        assert entry.digest is not None, "pictures are looked at before they are encoded"
        drawn = {"lines": THRESHOLDS} if is_line_art else {}
        return key_of(
            picture=entry.digest, shape=shape, vae=self.fingerprints["vae"], dtype=str(self.dtype), fit="filled",
            **drawn,
        )  # fmt: skip

    def _states_key(self, text: str, encoder: str) -> str:
        return key_of(
            text=text, encoder=self.fingerprints[encoder], length=self.lengths[encoder], dtype=str(self.dtype)
        )
