"""A training loop as diffusers' train_text_to_image writes it, and variants of it with parts of Dianjing's trainer.

B batch; images are (B, 3, H, W) on [-1, 1], latents (B, C, Y, X).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, BertModel, T5EncoderModel

from dianjing.dit import DiT

LEARNING_RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class LoopVariant:
    """Parts of Dianjing's trainer that a variant of diffusers' loop uses."""

    has_cached_latents: bool = False
    has_cached_text: bool = False
    has_dianjing_model: bool = False
    has_fused_optimizer: bool = False


LOOP_VARIANTS = {
    "diffusers": LoopVariant(),
    "+ latents cached": LoopVariant(has_cached_latents=True),
    "+ text states cached": LoopVariant(has_cached_latents=True, has_cached_text=True),
    "+ Dianjing's DiT": LoopVariant(has_cached_latents=True, has_cached_text=True, has_dianjing_model=True),
    "+ fused AdamW": LoopVariant(
        has_cached_latents=True, has_cached_text=True, has_dianjing_model=True, has_fused_optimizer=True
    ),
}


class ImageCaptionDataset(Dataset[tuple[Tensor, str]]):
    """Images (3, H, W) on [-1, 1] with a caption, read from files at every access."""

    def __init__(self, folder: Path, *, size_px: int) -> None:
        self.paths, self.size_px = sorted(folder.glob("*.png")), size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path = self.paths[index]
        image = Image.open(path).convert("RGB").resize((self.size_px, self.size_px), Image.Resampling.BILINEAR)
        text = path.with_suffix(".zh.txt" if index % 2 else ".en.txt").read_text(encoding="utf-8")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1, text


class DiffusersTrainingLoop:
    """Training loop as in diffusers' examples, except for the parts of its variant.

    folder: a model folder. The EMA is updated at every step, as with --use_ema.
    """

    def __init__(
        self,
        folder: Path,
        dataset: ImageCaptionDataset,
        variant: LoopVariant,
        *,
        batch_size: int,
        accelerator: Accelerator,
    ) -> None:
        self.variant, self.accelerator = variant, accelerator
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
        self.encoders = [
            kind.from_pretrained(folder / name).requires_grad_(False)
            for kind, name in ((BertModel, "text_encoder"), (T5EncoderModel, "text_encoder_2"))
        ]
        self.tokenizers = [AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        model = (DiT if variant.has_dianjing_model else HunyuanDiT2DModel).from_pretrained(folder / "transformer")
        self.lengths = (model.config.text_len, model.config.text_len_t5)
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        for frozen in (self.vae, *self.encoders):
            frozen.to(accelerator.device, dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=variant.has_fused_optimizer or None)
        data = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
        self.ema = EMAModel(model.parameters(), model_cls=type(model), model_config=model.config)
        self.model, self.optimizer, self.dataloader = accelerator.prepare(model.train(), optimizer, data)
        self.cached_samples = self._fill_cache(dataset) if variant.has_cached_latents else []
        self.batches = self._iterate_batches()

    def train_step(self) -> None:
        """Run one optimizer step."""
        latents, text = self._get_inputs(next(self.batches))
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        with self.accelerator.autocast():
            inputs = {"timestep": timesteps.to(noisy.dtype), **text, **self._get_rotary_inputs(noisy)}
            predicted = self.model(noisy, **inputs, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), target.float())
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss.item()  # the example's progress bar reads it at every step

    def _iterate_batches(self) -> Iterator[Any]:
        while True:
            yield from self.dataloader if not self.variant.has_cached_latents else self._iterate_cached_batches()

    def _iterate_cached_batches(self) -> Iterator[list[Any]]:
        order, size = torch.randperm(len(self.cached_samples)).tolist(), self.dataloader.total_batch_size
        for first in range(0, len(order) - size + 1, size):
            yield [self.cached_samples[index] for index in order[first : first + size]]

    @torch.no_grad()
    def _fill_cache(self, dataset: ImageCaptionDataset) -> list[Any]:
        """Return for every image its latents, and its caption or the text states of the caption."""
        samples = []
        for pixels, text in (dataset[index] for index in range(len(dataset))):
            latents = self._encode_latents(pixels[None])[0]
            cached: Any = text
            if self.variant.has_cached_text:
                cached = {name: tensor[0] for name, tensor in self._encode_text([text]).items()}
            samples.append((latents, cached))
        return samples

    def _get_inputs(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.variant.has_cached_latents:
            pixels, texts = batch
            with torch.no_grad():
                return self._encode_latents(pixels), self._encode_text(texts)
        latents = torch.stack([row for row, _ in batch])
        if self.variant.has_cached_text:
            return latents, {name: torch.stack([text[name] for _, text in batch]) for name in batch[0][1]}
        with torch.no_grad():
            return latents, self._encode_text([text for _, text in batch])

    def _encode_latents(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.accelerator.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.sample().float() * self.vae.config.scaling_factor

    def _encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}
        for suffix, encoder, tokenizer, length in zip(
            ("", "_t5"), self.encoders, self.tokenizers, self.lengths, strict=True
        ):
            tokens = tokenizer(
                list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).to(self.accelerator.device)
            states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
            inputs |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": tokens.attention_mask}
        return inputs

    def _get_rotary_inputs(self, latents: Tensor) -> dict[str, Any]:
        """Return the rotary embedding that only diffusers' model takes as an argument."""
        if self.variant.has_dianjing_model:
            return {}
        config = self.accelerator.unwrap_model(self.model).config
        rows, columns = (side // config.patch_size for side in latents.shape[-2:])
        span = get_resize_crop_region_for_grid((rows, columns), 64 // config.patch_size)
        return {"image_rotary_emb": get_2d_rotary_pos_embed(config.attention_head_dim, span, (rows, columns))}
