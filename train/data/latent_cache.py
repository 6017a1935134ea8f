"""The cache of latents and text-encoder states, filled by all processes with one encoder in memory at a time.

B batch, C latent channels, F frames, L text tokens, T width of an encoder's states, H height, W width in pixels.
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
from torch.nn.functional import adaptive_avg_pool2d
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.errors import DianjingError, Message, get_language
from dianjing.pipelines.prompt_embeds import encode_texts
from dianjing.pipelines.vae import encode_images
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.control_images import ControlImageSource
from dianjing.train.data.fitting import fit_image, fit_motion_mask, make_loss_mask
from dianjing.train.data.images import to_pixels
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.optical_flow import compute_motion_strength, compute_optical_flow
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.tensor_cache import TensorCache, hash_folders, make_cache_key
from dianjing.train.data.video_clips import iterate_clip

TEXT_ENCODER_CLASSES: dict[str, type[BertModel] | type[T5EncoderModel]] = {
    "text_encoder": BertModel,
    "text_encoder_2": T5EncoderModel,
}
TOKENIZER_FOLDERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
TEXT_BATCH_SIZE = 16
CACHE_FORMAT = 3  # of files with latents; changes with the names and the meaning of their tensors


def encode_frames(vae: AutoencoderKL, frames: Sequence[Image.Image]) -> Tensor:
    """Encode frames of one size as scaled latents (F, C, Y, X)."""
    images = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return encode_images(vae, to_pixels(images.to(vae.device)))


def encode_motion_label(
    record: SampleRecord, frames: Sequence[Image.Image], *, source_size: tuple[int, int], fps: float
) -> dict[str, Tensor]:
    """The motion label as tensors: "region_mask" (H, W) of zeros and ones, and "strength" ().

    A strength that the record does not give is measured by optical flow. source_size: (width, height) of the video.
    Raises: DianjingError as `fit_motion_mask`.
    """
    assert record.motion_label is not None
    width, height = frames[0].size
    mask = fit_motion_mask(record, source_size, height=height, width=width)
    strength = record.motion_label.strength
    if strength is None:
        flow = compute_optical_flow(np.stack([np.asarray(frame) for frame in frames]))
        strength = compute_motion_strength(flow, mask, fps=fps)
    return {"region_mask": torch.from_numpy(mask).float(), "strength": torch.tensor(strength)}


class EncodeItem(NamedTuple):
    """A unit of encoding: an image or video at its bucket shape, or the control image of an image."""

    record: SampleRecord
    shape: BucketShape
    is_control: bool


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The share of one process in a list of items: every `num_processes`-th one, starting with `rank`."""

    rank: int = 0
    num_processes: int = 1

    def select(self, items: Sequence) -> Sequence:
        return items[self.rank :: self.num_processes]


SINGLE_SHARD = Shard()


@dataclass(frozen=True, kw_only=True)
class LatentCache:
    """The cached latents and text-encoder states of one model in one precision.

    `text_lengths` are in tokens; they and the fingerprints are by the name of the encoder's folder.
    """

    cache: TensorCache
    model_folder: Path
    dtype: torch.dtype
    text_lengths: Mapping[str, int]
    fingerprints: Mapping[str, str]  # of "vae", and of both text encoders with their tokenizers
    control_source: ControlImageSource | None = None  # encode the control image of every image as well
    fps: float = 8.0  # frame rate that videos are resampled to

    @classmethod
    def from_model(
        cls,
        model_folder: Path,
        cache: TensorCache,
        *,
        dtype: torch.dtype,
        text_lengths: Mapping[str, int],
        control_source: ControlImageSource | None = None,
        fps: float = 8.0,
    ) -> "LatentCache":
        """The cache of a diffusers folder, whose encoders are identified by the hashes of their files."""
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
            control_source=control_source,
            fps=fps,
        )

    def load_latents(self, record: SampleRecord, shape: BucketShape) -> dict[str, Tensor]:
        """The cached tensors of an image or video: scaled "latents" (C, Y, X) or (C, F, Y, X).

        With control images, "control" holds their latents; a video with a motion label has "region_mask" (H, W) and
        "strength" () too. "loss_mask" (Y, X) is the fraction of each latent cell that the loss counts, if not all is.
        Raises: DianjingError with the reason why a sample was not encoded, or if its file is missing or damaged.
        """
        try:
            tensors = dict(self.cache.read(self._make_latents_key(record, shape, False)))
            if self.control_source is not None:
                tensors["control"] = self.cache.read(self._make_latents_key(record, shape, True))["latents"]
        except DianjingError:
            self._read_frames(record, shape)  # raises what `write_latents` reported
            raise
        return tensors

    def contains(self, record: SampleRecord, shape: BucketShape) -> bool:
        return all(self._is_cached(item) for item in self._list_items(record, shape))

    def _list_items(self, record: SampleRecord, shape: BucketShape) -> list[EncodeItem]:
        kinds = (False,) if self.control_source is None else (False, True)
        return [EncodeItem(record, shape, is_control) for is_control in kinds]

    def _is_cached(self, item: EncodeItem) -> bool:
        return self._make_latents_key(*item) in self.cache

    def load_text_states(self, text: str, encoder_name: str) -> tuple[Tensor, Tensor]:
        """States (L, T) and attention mask (L,) of a text. Raises: DianjingError if the file is missing or damaged."""
        tensors = self.cache.read(self._make_text_states_key(text, encoder_name))
        return tensors["states"], tensors["mask"]

    def fill_latents(
        self, records: Mapping[BucketShape, Sequence[SampleRecord]], *, device: torch.device, shard: Shard
    ) -> None:
        """Encode missing latents of this shard; files that have become unreadable are skipped."""
        if items := self.list_missing_latents(records, shard):
            vae = self.load_vae(device)
            for item in tqdm(items, desc="latents", unit="image"):
                self.write_latents(vae, item)

    def list_missing_latents(
        self, records: Mapping[BucketShape, Sequence[SampleRecord]], shard: Shard = SINGLE_SHARD
    ) -> list[EncodeItem]:
        """Items of this shard that are not in the cache.

        The shard is selected before the cache is looked up: processes that look at different times must not divide
        the work differently.
        """
        items = [item for shape, same in records.items() for record in same for item in self._list_items(record, shape)]
        return [item for item in shard.select(items) if not self._is_cached(item)]

    def load_vae(self, device: torch.device) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.model_folder / "vae", dtype=self.dtype).to(device)

    @torch.no_grad()
    def write_latents(self, vae: AutoencoderKL, item: EncodeItem) -> None:
        """Encode an item and write it to the cache; an unreadable file is reported and skipped."""
        record, shape, is_control = item
        try:
            frames, loss_mask, control = self._read_frames(record, shape)
            if is_control and self.control_source is not None:
                frames = [self.control_source.make(record, frame) for frame in frames]
        except DianjingError as error:
            tqdm.write(Message("sample_not_encoded", reason=error).render(get_language()), file=sys.stderr)
            return
        latents = encode_frames(vae, frames)
        if loss_mask is not None:
            height, width = latents.shape[-2:]
            control["loss_mask"] = adaptive_avg_pool2d(torch.from_numpy(loss_mask).float()[None], (height, width))[0]
        latents = latents[0] if get_num_frames(shape) == 1 else latents.transpose(0, 1).contiguous()
        self.cache.write(self._make_latents_key(*item), {"latents": latents, **control})

    def _read_frames(
        self, record: SampleRecord, shape: BucketShape
    ) -> tuple[list[Image.Image], np.ndarray | None, dict[str, Tensor]]:
        """The frames of a clip, or the one image, fitted to the shape; the pixels that the loss counts; the label."""
        (height, width), num_frames = shape[:2], get_num_frames(shape)
        images: Iterable[Image.Image]
        if num_frames > 1:
            images = iterate_clip(record, fps=self.fps, num_frames=num_frames)
        else:
            images = [decode_image(record.source, name=record.name)]
        frames = []
        for image in images:  # one large image in memory at a time
            source_size = image.size
            frames.append(fit_image(image, record, height=height, width=width))
        loss_mask = make_loss_mask(record, source_size, height=height, width=width)
        if record.motion_label is None:
            return frames, loss_mask, {}
        return frames, loss_mask, encode_motion_label(record, frames, source_size=source_size, fps=self.fps)

    def fill_text_states(self, texts: Iterable[str], *, device: torch.device, shard: Shard) -> None:
        """Encode missing texts of this shard with both encoders, one encoder after the other."""
        sorted_texts = sorted(set(texts))
        for name in TEXT_ENCODER_CLASSES:
            if missing := self.list_missing_text_states(shard.select(sorted_texts), name):
                encoder_and_tokenizer = self.load_text_encoder(name, device)
                for first in tqdm(range(0, len(missing), TEXT_BATCH_SIZE), desc=name, unit="batch"):
                    self.write_text_states(*encoder_and_tokenizer, missing[first : first + TEXT_BATCH_SIZE], name)
                del encoder_and_tokenizer

    def list_missing_text_states(self, texts: Iterable[str], encoder_name: str) -> list[str]:
        return [text for text in texts if self._make_text_states_key(text, encoder_name) not in self.cache]

    def load_text_encoder(self, encoder_name: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
        encoder_class = TEXT_ENCODER_CLASSES[encoder_name]
        encoder = encoder_class.from_pretrained(self.model_folder / encoder_name, dtype=self.dtype).to(device)
        return encoder, AutoTokenizer.from_pretrained(self.model_folder / TOKENIZER_FOLDERS[encoder_name])

    @torch.no_grad()
    def write_text_states(
        self, encoder: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], encoder_name: str
    ) -> None:
        """Encode a batch of texts and write their states and masks to the cache."""
        output = encode_texts(
            encoder, tokenizer, texts, max_length=self.text_lengths[encoder_name], device=encoder.device
        )
        for text, states, mask in zip(texts, output.embeds, output.attention_mask, strict=True):
            self.cache.write(self._make_text_states_key(text, encoder_name), {"states": states, "mask": mask})

    def _make_latents_key(self, record: SampleRecord, shape: BucketShape, is_control: bool) -> str:
        assert record.digest is not None, "records are inspected before they are encoded"
        settings: dict[str, Any] = {}
        if is_control and self.control_source is not None:
            settings |= self.control_source.get_cache_settings(record)
        if get_num_frames(shape) > 1:
            strength = None if record.motion_label is None else record.motion_label.strength
            settings |= {"fps": self.fps, "strength": strength, "start": record.start_frame}
        settings |= {"fit": record.fit} if record.fit != "crop" else {}
        settings |= {"flipped": True} if record.is_flipped else {}
        return make_cache_key(
            content=record.digest,
            shape=shape,
            vae=self.fingerprints["vae"],
            dtype=str(self.dtype),
            format=CACHE_FORMAT,
            **settings,
        )

    def _make_text_states_key(self, text: str, encoder_name: str) -> str:
        return make_cache_key(
            text=text,
            encoder=self.fingerprints[encoder_name],
            length=self.text_lengths[encoder_name],
            dtype=str(self.dtype),
        )
