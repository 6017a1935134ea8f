"""Images that the base model generates of captions to preserve, before training; the cache holds their latents.

They are the class images of DreamBooth (arXiv 2208.12242).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.pipelines.embeds import get_embed_names
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES, LatentCache, Shard
from dianjing.train.data.tensor_cache import hash_folders, make_cache_key

NUM_INFERENCE_STEPS = 20
MIN_NUM_IMAGES = 96


@dataclass(frozen=True, kw_only=True)
class PriorImages:
    """Square images of side `size_px`, at least one per caption, generated with the model's own scheduler and guidance.

    Image i shows caption i modulo their number, from seed i.
    """

    latent_cache: LatentCache
    captions: Sequence[str]
    size_px: int

    def __len__(self) -> int:
        return max(len(self.captions), MIN_NUM_IMAGES)

    def get_caption(self, index: int) -> str:
        """The caption of image `index`."""
        return self.captions[index % len(self.captions)]

    def load(self, index: int) -> Tensor:
        """The latents (C, Y, X) of image `index`. Raises: DianjingError if the file is missing or damaged."""
        return self.latent_cache.cache.read(self._make_key(index))["latents"]

    @torch.no_grad()
    def fill(self, *, batch_size: int, device: torch.device, shard: Shard) -> None:
        """Generate missing images of this shard; the states of the captions and of "" must be in the cache."""
        cache = self.latent_cache.cache
        missing = [index for index in shard.select(range(len(self))) if self._make_key(index) not in cache]
        if not missing:
            return
        encoders = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        pipe: Any = TextToImagePipeline.from_pretrained(
            self.latent_cache.model_folder, dtype=self.latent_cache.dtype, **encoders
        ).to(device)
        pipe.set_progress_bar_config(disable=True)
        with tqdm(total=len(missing), desc="prior images", unit="image") as bar:
            for first in range(0, len(missing), batch_size):
                indices = missing[first : first + batch_size]
                latents = self._generate_latents(pipe, indices)
                for index, image in zip(indices, latents.to(self.latent_cache.dtype).cpu(), strict=True):
                    cache.write(self._make_key(index), {"latents": image.contiguous()})
                bar.update(len(indices))

    def _generate_latents(self, pipe: Any, indices: Sequence[int]) -> Tensor:
        """Scaled latents (B, C, Y, X)."""
        embeds: dict[str, Tensor] = {}
        texts = [self.get_caption(index) for index in indices]
        for encoder, name in enumerate(TEXT_ENCODER_CLASSES):
            states_name, negative_states_name, mask_name, negative_mask_name = get_embed_names(encoder)
            embeds[states_name], embeds[mask_name] = self._load_states(texts, name, pipe)
            embeds[negative_states_name], embeds[negative_mask_name] = self._load_states([""] * len(texts), name, pipe)
        return pipe(
            **embeds,
            height=self.size_px,
            width=self.size_px,
            num_inference_steps=NUM_INFERENCE_STEPS,
            generator=[torch.Generator().manual_seed(index) for index in indices],
            output_type="latent",
        ).images

    def _load_states(self, texts: Sequence[str], encoder: str, pipe: Any) -> list[Tensor]:
        rows = [self.latent_cache.load_text_states(text, encoder) for text in texts]
        return [torch.stack(tensors).to(pipe.device) for tensors in zip(*rows, strict=True)]

    @cached_property
    def _model_fingerprint(self) -> str:
        return hash_folders([self.latent_cache.model_folder / name for name in ("transformer", "scheduler")])

    def _make_key(self, index: int) -> str:
        return make_cache_key(
            caption=self.get_caption(index),
            seed=index,
            size_px=self.size_px,
            num_inference_steps=NUM_INFERENCE_STEPS,
            model=self._model_fingerprint,
            encoders=dict(self.latent_cache.fingerprints),
            dtype=str(self.latent_cache.dtype),
        )
