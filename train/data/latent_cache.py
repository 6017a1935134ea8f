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

from dianjing.pipelines.controlnet import CANNY_THRESHOLDS, detect_canny_edges
from dianjing.pipelines.media.image import resize_crop
from dianjing.pipelines.prompt_embeds import encode_texts
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.images import to_pixels
from dianjing.train.data.inspect import decode_image, read_clip_frames
from dianjing.train.data.optical_flow import compute_motion_strength, compute_optical_flow
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.tensor_cache import TensorCache, hash_folders, make_cache_key

TEXT_ENCODER_CLASSES: dict[str, type[BertModel] | type[T5EncoderModel]] = {
    "text_encoder": BertModel,
    "text_encoder_2": T5EncoderModel,
}
TOKENIZER_FOLDERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
TEXT_BATCH_SIZE = FRAME_BATCH_SIZE = 16
CACHE_FORMAT = 2  # of the tensors in a file of latents: their names and meaning


def encode_frames(vae: AutoencoderKL, frames: Sequence[Image.Image]) -> Tensor:
    """Scaled latents (F, C, Y, X)."""
    parts = []
    for first in range(0, len(frames), FRAME_BATCH_SIZE):
        levels = np.stack([np.asarray(frame) for frame in frames[first : first + FRAME_BATCH_SIZE]])
        pixels = to_pixels(torch.from_numpy(levels).to(vae.device))
        parts.append(vae.encode(pixels.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(parts)


def encode_motion_label(record: SampleRecord, frames: Sequence[Image.Image], *, fps: float) -> dict[str, Tensor]:
    """As "clicked" (H, W), 1 where the mask is, and "strength" (), read from the optical flow where nobody told it.

    Raises: ValueError for a mask that cannot be read, or is empty.
    """
    assert record.motion_label is not None
    width, height = frames[0].size
    drawn, _ = resize_crop(
        decode_image(record.motion_label.mask, name=f"mask of {record.name}"), height=height, width=width
    )
    mask = np.asarray(drawn.convert("L")) > 127
    if not mask.any():
        raise ValueError(f"the mask of {record.name} is empty")
    speed = record.motion_label.strength
    if speed is None:
        speed = compute_motion_strength(
            compute_optical_flow(np.stack([np.asarray(frame) for frame in frames])), mask, fps=fps
        )
    return {"region_mask": torch.from_numpy(mask).float(), "strength": torch.tensor(speed)}


class EncodeItem(NamedTuple):
    """What is encoded at once: a picture or film at its shape, or the line art of a picture."""

    record: SampleRecord
    shape: BucketShape
    is_line_art: bool


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Of the work: every `processes`-th piece, from `rank` on."""

    rank: int = 0
    num_processes: int = 1

    def select(self, items: Sequence) -> Sequence:
        return items[self.rank :: self.num_processes]


SINGLE_SHARD = Shard()


@dataclass(frozen=True, kw_only=True)
class LatentCache:
    """Where the latents and text states of one model and precision are kept; lengths in tokens, by encoder."""

    cache: TensorCache
    model_folder: Path  # of the model
    dtype: torch.dtype
    text_lengths: Mapping[str, int]
    fingerprints: Mapping[str, str]  # of "vae" and of both text encoders with their tokenizers
    has_line_art: bool = False  # the line art of every picture is encoded too
    fps: float = 8.0  # that films are read at

    @classmethod
    def from_model(
        cls,
        model_folder: Path,
        cache: TensorCache,
        *,
        dtype: torch.dtype,
        text_lengths: Mapping[str, int],
        has_line_art: bool = False,
        fps: float = 8.0,
    ) -> "LatentCache":
        fingerprints = {
            name: hash_folders([model_folder / name, model_folder / TOKENIZER_FOLDERS[name]])
            for name in TEXT_ENCODER_CLASSES
        }
        fingerprints["vae"] = hash_folders([model_folder / "vae"])
        return cls(
            cache=cache,
            model_folder=model_folder,
            dtype=dtype,
            text_lengths=text_lengths,
            fingerprints=fingerprints,
            has_line_art=has_line_art,
            fps=fps,
        )

    def load_latents(self, record: SampleRecord, shape: BucketShape) -> dict[str, Tensor]:
        """Its "latents" (C, Y, X), or of a film (C, F, Y, X), scaled as the transformer takes them.

        With "control", the latents of line art, where lines are drawn; with "clicked" (H, W), the mask of what is
        clicked on, and "strength" (), where something is.
        """
        found = dict(self.cache.read(self._make_latents_key(record, shape, False)))
        if self.has_line_art:
            found["control"] = self.cache.read(self._make_latents_key(record, shape, True))["latents"]
        return found

    def contains(self, record: SampleRecord, shape: BucketShape) -> bool:
        return all(self._is_cached(piece) for piece in self._list_items(record, shape))

    def _list_items(self, record: SampleRecord, shape: BucketShape) -> list[EncodeItem]:
        return [
            EncodeItem(record, shape, is_line_art) for is_line_art in ((False, True) if self.has_line_art else (False,))
        ]

    def _is_cached(self, item: EncodeItem) -> bool:
        return self._make_latents_key(*item) in self.cache

    def load_text_states(self, text: str, encoder_name: str) -> tuple[Tensor, Tensor]:
        """(L, T) and mask (L,)."""
        found = self.cache.read(self._make_text_states_key(text, encoder_name))
        return found["states"], found["mask"]

    def fill_latents(
        self, records: Mapping[BucketShape, Sequence[SampleRecord]], *, device: torch.device, shard: Shard
    ) -> None:
        """What changed since it was looked at, and cannot be read any more, stays missing."""
        if mine := self.list_missing_latents(records, shard):
            vae = self.load_vae(device)
            for piece in tqdm(mine, desc="latents", unit="picture"):
                self.write_latents(vae, piece)

    def list_missing_latents(
        self, records: Mapping[BucketShape, Sequence[SampleRecord]], shard: Shard = SINGLE_SHARD
    ) -> list[EncodeItem]:
        """Dealt out before it is asked what is there: ranks that ask at other times must not deal otherwise."""
        every = [
            piece for shape, found in records.items() for entry in found for piece in self._list_items(entry, shape)
        ]
        return [piece for piece in shard.select(every) if not self._is_cached(piece)]

    def load_vae(self, device: torch.device) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.model_folder / "vae", dtype=self.dtype).to(device)

    @torch.no_grad()
    def write_latents(self, vae: AutoencoderKL, item: EncodeItem) -> None:
        """Nothing where it cannot be read."""
        entry, shape, is_line_art = item
        try:
            frames = self._read_frames(entry, shape)
            clicked = {} if entry.motion_label is None else encode_motion_label(entry, frames, fps=self.fps)
        except ValueError as error:
            tqdm.write(f"not encoded: {error}", file=sys.stderr)
            return
        if is_line_art:
            frames = [detect_canny_edges(frame) for frame in frames]
        latents = encode_frames(vae, frames)
        latents = latents[0] if get_num_frames(shape) == 1 else latents.transpose(0, 1).contiguous()
        self.cache.write(self._make_latents_key(*item), {"latents": latents, **clicked})

    def _read_frames(self, record: SampleRecord, shape: BucketShape) -> list[Image.Image]:
        """Of a picture one."""
        height, width = shape[:2]
        if get_num_frames(shape) == 1:
            pictures = [decode_image(record.source, name=record.name)]
        else:
            frames = read_clip_frames(record, fps=self.fps)[: get_num_frames(shape)]
            if len(frames) < get_num_frames(shape):
                raise ValueError(f"{record.name} has become shorter: {len(frames)} frames")
            pictures = [Image.fromarray(frame) for frame in frames]
        return [resize_crop(picture, height=height, width=width)[0] for picture in pictures]

    def fill_text_states(self, texts: Iterable[str], *, device: torch.device, shard: Shard) -> None:
        """Of both encoders, one after the other."""
        every = sorted(set(texts))
        for name in TEXT_ENCODER_CLASSES:
            if missing := self.list_missing_text_states(shard.select(every), name):
                encoder = self.load_text_encoder(name, device)
                for first in tqdm(range(0, len(missing), TEXT_BATCH_SIZE), desc=name, unit="batch"):
                    self.write_text_states(*encoder, missing[first : first + TEXT_BATCH_SIZE], name)
                del encoder

    def list_missing_text_states(self, texts: Iterable[str], encoder_name: str) -> list[str]:
        return [text for text in texts if self._make_text_states_key(text, encoder_name) not in self.cache]

    def load_text_encoder(self, encoder_name: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
        encoder = (
            TEXT_ENCODER_CLASSES[encoder_name]
            .from_pretrained(self.model_folder / encoder_name, dtype=self.dtype)
            .to(device)
        )
        return encoder, AutoTokenizer.from_pretrained(self.model_folder / TOKENIZER_FOLDERS[encoder_name])

    @torch.no_grad()
    def write_text_states(
        self, encoder: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], encoder_name: str
    ) -> None:
        states = encode_texts(
            encoder, tokenizer, texts, max_length=self.text_lengths[encoder_name], device=encoder.device
        )
        for text, embeds, mask in zip(texts, states.embeds, states.attention_mask, strict=True):
            self.cache.write(self._make_text_states_key(text, encoder_name), {"states": embeds, "mask": mask})

    def _make_latents_key(self, record: SampleRecord, shape: BucketShape, is_line_art: bool) -> str:
        assert record.digest is not None, "pictures are looked at before they are encoded"
        drawn: dict[str, Any] = {"lines": CANNY_THRESHOLDS} if is_line_art else {}
        if get_num_frames(shape) > 1:
            drawn |= {"fps": self.fps, "strength": record.motion_label and record.motion_label.strength}
        return make_cache_key(
            picture=record.digest,
            shape=shape,
            vae=self.fingerprints["vae"],
            dtype=str(self.dtype),
            format=CACHE_FORMAT,
            **drawn,
        )

    def _make_text_states_key(self, text: str, encoder_name: str) -> str:
        return make_cache_key(
            text=text,
            encoder=self.fingerprints[encoder_name],
            length=self.text_lengths[encoder_name],
            dtype=str(self.dtype),
        )
