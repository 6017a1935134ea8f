"""Latents and text states, computed once into a cache: one encoder in memory at a time, the work dealt out to ranks.

L text tokens, T width of an encoder's states; latents are C Y X.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.pipelines.fitting import fit
from dianjing.pipelines.line_art import THRESHOLDS, line_art
from dianjing.pipelines.text import encode
from dianjing.train.caches import Cache, fingerprint, key_of
from dianjing.train.footage import optical_flow, strength
from dianjing.train.pictures import to_pixels
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.looking import decode, read_frames
from dianjing.train.sets.shapes import Shape, frames_of

ENCODERS: dict[str, type[BertModel] | type[T5EncoderModel]] = {
    "text_encoder": BertModel,
    "text_encoder_2": T5EncoderModel,
}
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
TEXTS_AT_ONCE = FRAMES_AT_ONCE = 16


def encode_frames(vae: AutoencoderKL, frames: Sequence[Image.Image]) -> Tensor:
    """Scaled latents (F, C, Y, X)."""
    parts = []
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        levels = np.stack([np.asarray(frame) for frame in frames[first : first + FRAMES_AT_ONCE]])
        pixels = to_pixels(torch.from_numpy(levels).to(vae.device))
        parts.append(vae.encode(pixels.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(parts)


def click_of(entry: Entry, frames: Sequence[Image.Image], *, fps: float) -> dict[str, Tensor]:
    """As "clicked" (H, W), 1 where the mask is, and "strength" (), read from the optical flow where nobody told it.

    Raises: ValueError for a mask that cannot be read, or is empty.
    """
    assert entry.click is not None
    width, height = frames[0].size
    drawn, _ = fit(decode(entry.click.mask, name=f"mask of {entry.name}"), height=height, width=width)
    mask = np.asarray(drawn.convert("L")) > 127
    if not mask.any():
        raise ValueError(f"the mask of {entry.name} is empty")
    speed = entry.click.strength
    if speed is None:
        speed = strength(optical_flow(np.stack([np.asarray(frame) for frame in frames])), mask, fps=fps)
    return {"clicked": torch.from_numpy(mask).float(), "strength": torch.tensor(speed)}


class Piece(NamedTuple):
    """What is encoded at once: a picture or film at its shape, or the line art of a picture."""

    entry: Entry
    shape: Shape
    is_line_art: bool


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of the work: every `processes`-th piece, from `rank` on."""

    rank: int = 0
    processes: int = 1

    def of(self, pieces: Sequence) -> Sequence:
        return pieces[self.rank :: self.processes]


WHOLE = Share()


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Where the latents and text states of one model and precision are kept; lengths in tokens, by encoder."""

    cache: Cache
    folder: Path  # of the model
    dtype: torch.dtype
    lengths: Mapping[str, int]
    fingerprints: Mapping[str, str]  # of "vae" and of both text encoders with their tokenizers
    draws_lines: bool = False  # the line art of every picture is encoded too
    fps: float = 8.0  # that films are read at

    @classmethod
    def of(
        cls, folder: Path, cache: Cache, *, dtype: torch.dtype, lengths: Mapping[str, int], draws_lines: bool = False,
        fps: float = 8.0,
    ) -> "Encoded":  # fmt: skip
        fingerprints = {name: fingerprint([folder / name, folder / TOKENIZERS[name]]) for name in ENCODERS}
        fingerprints["vae"] = fingerprint([folder / "vae"])
        return cls(
            cache=cache, folder=folder, dtype=dtype, lengths=lengths, fingerprints=fingerprints,
            draws_lines=draws_lines, fps=fps,
        )  # fmt: skip

    def picture(self, entry: Entry, shape: Shape) -> dict[str, Tensor]:
        """Its "latents" (C, Y, X), or of a film (C, F, Y, X), scaled as the transformer takes them.

        With "control", the latents of line art, where lines are drawn; with "clicked" (H, W), the mask of what is
        clicked on, and "strength" (), where something is.
        """
        found = dict(self.cache.read(self._latents_key(entry, shape, False)))
        if self.draws_lines:
            found["control"] = self.cache.read(self._latents_key(entry, shape, True))["latents"]
        return found

    def holds(self, entry: Entry, shape: Shape) -> bool:
        return all(self._has(piece) for piece in self._pieces(entry, shape))

    def _pieces(self, entry: Entry, shape: Shape) -> list[Piece]:
        return [Piece(entry, shape, is_line_art) for is_line_art in ((False, True) if self.draws_lines else (False,))]

    def _has(self, piece: Piece) -> bool:
        return self._latents_key(*piece) in self.cache

    def states(self, text: str, encoder: str) -> tuple[Tensor, Tensor]:
        """(L, T) and mask (L,)."""
        found = self.cache.read(self._states_key(text, encoder))
        return found["states"], found["mask"]

    def fill_latents(self, pictures: Mapping[Shape, Sequence[Entry]], *, device: torch.device, share: Share) -> None:
        """What changed since it was looked at, and cannot be read any more, stays missing."""
        if mine := self.missing_latents(pictures, share):
            vae = self.load_vae(device)
            for piece in tqdm(mine, desc="latents", unit="picture"):
                self.write_latents(vae, piece)

    def missing_latents(self, pictures: Mapping[Shape, Sequence[Entry]], share: Share = WHOLE) -> list[Piece]:
        """Dealt out before it is asked what is there: ranks that ask at other times must not deal otherwise."""
        every = [piece for shape, found in pictures.items() for entry in found for piece in self._pieces(entry, shape)]
        return [piece for piece in share.of(every) if not self._has(piece)]

    def load_vae(self, device: torch.device) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.folder / "vae", dtype=self.dtype).to(device)

    @torch.no_grad()
    def write_latents(self, vae: AutoencoderKL, piece: Piece) -> None:
        """Nothing where it cannot be read."""
        entry, shape, is_line_art = piece
        try:
            frames = self._frames(entry, shape)
            clicked = {} if entry.click is None else click_of(entry, frames, fps=self.fps)
        except ValueError as error:
            tqdm.write(f"not encoded: {error}", file=sys.stderr)
            return
        if is_line_art:
            frames = [line_art(frame) for frame in frames]
        latents = encode_frames(vae, frames)
        latents = latents[0] if frames_of(shape) == 1 else latents.transpose(0, 1).contiguous()
        self.cache.write(self._latents_key(*piece), {"latents": latents, **clicked})

    def _frames(self, entry: Entry, shape: Shape) -> list[Image.Image]:
        """Of a picture one."""
        height, width = shape[:2]
        if frames_of(shape) == 1:
            pictures = [decode(entry.source, name=entry.name)]
        else:
            frames = read_frames(entry, fps=self.fps)[: frames_of(shape)]
            if len(frames) < frames_of(shape):
                raise ValueError(f"{entry.name} has become shorter: {len(frames)} frames")
            pictures = [Image.fromarray(frame) for frame in frames]
        return [fit(picture, height=height, width=width)[0] for picture in pictures]

    def fill_states(self, texts: Iterable[str], *, device: torch.device, share: Share) -> None:
        """Of both encoders, one after the other."""
        every = sorted(set(texts))
        for name in ENCODERS:
            if missing := self.missing_states(share.of(every), name):
                encoder = self.load_encoder(name, device)
                for first in tqdm(range(0, len(missing), TEXTS_AT_ONCE), desc=name, unit="batch"):
                    self.write_states(*encoder, missing[first : first + TEXTS_AT_ONCE], name)
                del encoder

    def missing_states(self, texts: Iterable[str], name: str) -> list[str]:
        return [text for text in texts if self._states_key(text, name) not in self.cache]

    def load_encoder(self, name: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
        encoder = ENCODERS[name].from_pretrained(self.folder / name, dtype=self.dtype).to(device)
        return encoder, AutoTokenizer.from_pretrained(self.folder / TOKENIZERS[name])

    @torch.no_grad()
    def write_states(self, encoder: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], name: str) -> None:
        states = encode(encoder, tokenizer, texts, length=self.lengths[name], device=encoder.device)
        for text, embeds, mask in zip(texts, states.embeds, states.mask, strict=True):
            self.cache.write(self._states_key(text, name), {"states": embeds, "mask": mask})

    def _latents_key(self, entry: Entry, shape: Shape, is_line_art: bool) -> str:
        assert entry.digest is not None, "pictures are looked at before they are encoded"
        drawn: dict[str, Any] = {"lines": THRESHOLDS} if is_line_art else {}
        if frames_of(shape) > 1:
            drawn |= {"fps": self.fps, "strength": entry.click and entry.click.strength}
        return key_of(
            picture=entry.digest, shape=shape, vae=self.fingerprints["vae"], dtype=str(self.dtype), fit="filled",
            **drawn,
        )  # fmt: skip

    def _states_key(self, text: str, encoder: str) -> str:
        return key_of(
            text=text, encoder=self.fingerprints[encoder], length=self.lengths[encoder], dtype=str(self.dtype)
        )
