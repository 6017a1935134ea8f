"""A published or embedded transformer, whole or by an adapter, on cached latents and text states.

B batch; latents are (B, C, Y, X).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from dianjing.dit import DiT, MotionControl
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape
from dianjing.train.data.captions import STATE_KEYS, TOKEN_KEYS
from dianjing.train.data.images import stack_images, tile_images
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES, LatentCache
from dianjing.train.data.motion_control import PHRASE_PREFIX, make_motion_control
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord
from dianjing.train.data.schedule import Bucket
from dianjing.train.data.validation import iterate_validation_batches
from dianjing.train.diffusion import objectives
from dianjing.train.diffusion.noise_process import adapt_scheduler, init_warp_guidance, make_noise_process
from dianjing.train.export import export_adapter, export_pipeline
from dianjing.train.tasks.base import Task
from dianjing.train.tasks.finetune_model import get_motion_config, get_storage_dtype, prepare_transformer

MODEL_TEXT_ARGUMENTS = {
    "text_encoder": ("encoder_hidden_states", "text_embedding_mask"),
    "text_encoder_2": ("encoder_hidden_states_t5", "text_embedding_mask_t5"),
}  # of states and masks for the transformer
PIPELINE_TEXT_ARGUMENTS = {
    "text_encoder": ("prompt_embeds", "prompt_attention_mask"),
    "text_encoder_2": ("prompt_embeds_2", "prompt_attention_mask_2"),
}


class FinetuneTask(Task):
    """The transformer, and where asked for the text encoders; else their work is in the cache."""

    def __init__(
        self,
        config: FinetuneRunConfig,
        latent_cache: LatentCache,
        *,
        caption_batcher: CaptionBatcher,
        compute_dtype: torch.dtype,
        validation_records: Mapping[BucketShape, Sequence[SampleRecord]] | None = None,
        has_motion_control: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.latent_cache, self.caption_batcher, self.validation_records = (
            config,
            latent_cache,
            caption_batcher,
            validation_records or {},
        )
        folder = latent_cache.model_folder
        dtype = get_storage_dtype(config.model, compute_dtype)
        own = DiT.load_config(folder / "transformer")
        time = get_motion_config(config, own, has_motion_control=has_motion_control)
        transformer = DiT.from_pretrained(folder / "transformer", dtype=dtype, **time)
        self.transformer = prepare_transformer(transformer, config.model, has_video=bool(config.data.num_frames))
        self.text_encoders = nn.ModuleDict()
        if config.model.text_encoders == "joint":
            self.text_encoders.update(
                {
                    name: kind.from_pretrained(folder / name, dtype=torch.float32)
                    for name, kind in TEXT_ENCODER_CLASSES.items()
                }
            )
            self.text_encoders["text_encoder"].pooler.requires_grad_(False)  # nothing reads it
        pipe = TextToImagePipeline.from_pretrained(
            folder, transformer=None, text_encoder=None, text_encoder_2=None, vae=None
        )
        self.default_sampling = (pipe.config.default_num_inference_steps, pipe.config.default_guidance_scale)
        self.scheduler = adapt_scheduler(config.objective, pipe.scheduler)
        self.noise_process = make_noise_process(self.scheduler, min_snr_gamma=config.objective.min_snr_gamma)
        init_warp_guidance(transformer, self.noise_process)
        self.vae_config = AutoencoderKL.load_config(folder / "vae")

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        self.noise_process = self.noise_process.to(device)

    def compile_modules(self, mode: str) -> None:
        if self.config.model.compile_full_model:
            self.transformer.compile(mode=mode)
        else:
            self.transformer.compile_repeated_blocks(mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        device, rows = generator.device, bucket.shards.global_batch_size
        factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        assert bucket.height is not None
        assert bucket.width is not None
        frames = [] if bucket.num_frames == 1 else [bucket.num_frames]
        shape = (rows, self.transformer.config.in_channels, *frames, bucket.height // factor, bucket.width // factor)
        noise = torch.randn(shape, generator=generator, device=device)
        positions = objectives.sample_time(torch.rand(rows, generator=generator, device=device), self.config.objective)
        if offset := self.config.objective.noise_offset:
            each = (*shape[:2], *[1] * (len(shape) - 2))
            noise = noise + offset * torch.randn(each, generator=generator, device=device)
        return {"latents": noise, "timestep": self.noise_process.to_timestep(positions)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        errors = self._compute_errors(batch, noise)
        return {"loss": (errors * self.noise_process.get_loss_weight(noise["timestep"])).mean(), "mse": errors.mean()}

    def _compute_errors(self, batch: Batch, noise: Batch) -> Tensor:
        """The mean square of what is predicted wrongly, of each picture (B,)."""
        latents, timestep = batch["latents"].float(), noise["timestep"]
        noisy = self.noise_process.add_noise(latents, noise["latents"], timestep)
        target = self.noise_process.get_target(latents, noise["latents"], timestep)
        click = self._make_motion_control(batch, latents)
        settings = {} if click is None else {"motion_control": click}
        predicted = self._predict(noisy, timestep.float(), batch, **settings)[:, : latents.shape[1]]
        return (predicted.float() - target).square().flatten(1).mean(dim=1)

    def _predict(self, noisy_latents: Tensor, timestep: Tensor, batch: Batch, **settings: Any) -> Tensor:
        return self.transformer(
            noisy_latents, timestep, **self._make_model_inputs(batch, noisy_latents), **settings, return_dict=False
        )[0]

    def _make_motion_control(self, batch: Batch, latents: Tensor) -> MotionControl | None:
        """Of films, for a model that can be clicked on."""
        regions = self.transformer.config.max_regions
        if not regions or "region_mask" not in batch:
            return None
        said = {
            name.removeprefix(PHRASE_PREFIX): tensor for name, tensor in batch.items() if name.startswith(PHRASE_PREFIX)
        }
        return make_motion_control(batch, *self._get_text_states(said)[0], latents=latents, max_regions=regions)

    def _make_model_inputs(self, batch: Batch, noisy_latents: Tensor) -> dict[str, Tensor]:
        """What the transformer takes besides latents and timestep."""
        pairs = zip(MODEL_TEXT_ARGUMENTS.values(), self._get_text_states(batch), strict=True)
        return {
            name: tensor for names, found in pairs for name, tensor in zip(names, found, strict=True)
        } | self._make_size_conditioning(noisy_latents)

    def _get_text_states(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """States (B, L, T) and mask (B, L) of each encoder: cached, or computed now."""
        if not self.text_encoders:
            return [(batch[states], batch[mask]) for states, mask in STATE_KEYS.values()]
        found = []
        for encoder, (ids, mask) in TOKEN_KEYS.items():
            states = self.text_encoders[encoder](input_ids=batch[ids], attention_mask=batch[mask]).last_hidden_state
            found.append((states, batch[mask]))
        return found

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.text_encoders.eval()  # their dropout would take randomness that is not the step's
        return self

    def validate(self) -> dict[str, float]:
        """Errors of held-out pictures, Chinese and English apart: over all timesteps, and in each quantile of them."""
        found: dict[str, list[float]] = {}
        device = self.transformer.device
        for part in iterate_validation_batches(self.validation_records, self.latent_cache, self.caption_batcher):
            batch = {name: tensor.to(device) for name, tensor in part.batch.items()}
            timestep = self.noise_process.to_timestep(part.time.to(device))
            errors = self._compute_errors(batch, {"latents": part.noise.to(device), "timestep": timestep}).tolist()
            for name in (f"validation_mse_{part.language}", f"validation_mse_{part.language}_q{part.quantile + 1}"):
                found.setdefault(name, []).extend(errors)
        return {name: sum(errors) / len(errors) for name, errors in found.items()}

    def _make_size_conditioning(self, latents: Tensor) -> dict[str, Tensor]:
        """Of the pictures, for the models that are told: whole ones at their own size."""
        if not self.transformer.config.use_style_cond_and_image_meta_size:
            return {}
        factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        height, width = (factor * side for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, height, width, 0, 0]], dtype=torch.float32, device=latents.device)
        style = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        return {"image_meta_size": sizes.repeat(len(latents), 1), "style": style}

    def sample_grid(self) -> np.ndarray:
        """A picture for each prompt from the same noise; of an adapter's run the model without it above."""
        prompts = self.config.samples.prompts
        if not prompts:
            return np.full((8, 8, 3), 255, np.uint8)
        pipe = TextToImagePipeline(**self._make_components())
        pipe.set_progress_bar_config(disable=True)
        return stack_images(self._generate_rows(pipe))

    def _generate_rows(self, pipe: TextToImagePipeline) -> list[np.ndarray]:
        if self.config.data.num_frames:
            return [self._generate_images(pipe), self._generate_videos()]
        rows = [self._generate_images(pipe)]
        if self.config.model.trainable == "lora":
            self.transformer.disable_adapters()
            rows.insert(0, self._generate_images(pipe))
            self.transformer.enable_adapters()
        return rows

    def _generate_images(self, pipe: TextToImagePipeline, **settings: Any) -> np.ndarray:
        pictures: Any = pipe(**self._make_call_arguments(), output_type="pt", return_dict=False, **settings)[0]
        levels = rearrange((pictures.float() * 255).round().to(torch.uint8), "b c h w -> b h w c")
        return tile_images(levels, columns=min(8, len(levels)))

    def _generate_videos(self) -> np.ndarray:
        """One a row, as long as the shortest clips."""
        count = min(self.config.data.num_frames)
        pipe = TextToVideoPipeline(
            **self._make_components(), default_num_frames=count, default_fps=self.config.data.fps
        )
        pipe.set_progress_bar_config(disable=True)
        frames: Any = pipe(**self._make_call_arguments(), num_frames=count, output_type="uint8", return_dict=False)[0]
        return tile_images(torch.from_numpy(frames).flatten(0, 1), columns=count)

    def _make_components(self) -> dict[str, Any]:
        """Of a pipeline whose texts are given as states."""
        return {
            "vae": AutoencoderKL.from_pretrained(self.latent_cache.model_folder / "vae").to(self.transformer.device),
            "transformer": self.transformer,
            "scheduler": type(self.scheduler).from_config(self.scheduler.config),
            "default_num_inference_steps": self.default_sampling[0],
            "default_guidance_scale": self.default_sampling[1],
            **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
        }

    def _make_call_arguments(self) -> dict[str, Any]:
        """A call of a pipeline: the sample prompts, each from its own noise."""
        samples, device, size = self.config.samples, self.transformer.device, self.config.data.size_px
        embeds: dict[str, Any] = {}
        for side, texts in (("", samples.prompts), ("negative_", [""] * len(samples.prompts))):
            batch = {
                name: tensor.to(device)
                for name, tensor in self.caption_batcher([(text, text) for text in texts]).items()
            }
            for names, found in zip(PIPELINE_TEXT_ARGUMENTS.values(), self._get_text_states(batch), strict=True):
                embeds |= {side + name: tensor for name, tensor in zip(names, found, strict=True)}
        generators = [torch.Generator().manual_seed(samples.seed + row) for row in range(len(samples.prompts))]
        sides = {"height": size, "width": size}
        return (
            sides
            | embeds
            | {
                "num_inference_steps": samples.num_inference_steps,
                "guidance_scale": samples.guidance_scale,
                "generator": generators,
            }
        )

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """The adapter, as diffusers and PEFT load it, or the whole pipeline's folder; read again before it counts."""
        self._export(folder, dtype)
        return {"parameters": sum(p.numel() for p in self.parameters() if p.requires_grad)}

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        if self.config.model.trainable == "lora":
            export_adapter(folder, dtype, transformer=self.transformer, scheduler=self.scheduler)
        else:
            trained = {"transformer": self.transformer, **self.text_encoders}
            export_pipeline(
                folder, dtype, base=self.latent_cache.model_folder, trained_modules=trained, scheduler=self.scheduler
            )
