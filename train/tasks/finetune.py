"""The fine-tuning task: a transformer, by an adapter or all weights, on cached latents and text-encoder states.

B batch, C latent channels, F frames, L text tokens, T width of a text encoder; latents are (B, C, Y, X) or
(B, C, F, Y, X).
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
from dianjing.pipelines.denoiser import make_model_inputs
from dianjing.pipelines.embeds import PromptEmbeds, get_embed_names
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape
from dianjing.train.data.captions import STATE_KEYS, TOKEN_KEYS
from dianjing.train.data.images import stack_images, tile_images
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES, LatentCache
from dianjing.train.data.motion_control import PHRASE_PREFIX, make_motion_control
from dianjing.train.data.prior_captions import PRIOR_PREFIX
from dianjing.train.data.samples import Batch, CaptionBatcher, SampleRecord
from dianjing.train.data.schedule import Bucket
from dianjing.train.data.validation import iterate_validation_batches
from dianjing.train.diffusion import objectives
from dianjing.train.diffusion.noise_process import adapt_scheduler, init_warp_guidance, make_noise_process
from dianjing.train.export import export_adapter, export_pipeline
from dianjing.train.tasks.base import Task
from dianjing.train.tasks.finetune_model import (
    get_motion_config,
    get_storage_dtype,
    load_adapter_weights,
    prepare_transformer,
)
from dianjing.weights.image_sizes import get_scale_factor


class FinetuneTask(Task):
    """Trains the transformer, and the text encoders if the run trains them jointly."""

    def __init__(
        self,
        config: FinetuneRunConfig,
        latent_cache: LatentCache,
        *,
        caption_batcher: CaptionBatcher,
        compute_dtype: torch.dtype,
        validation_records: Mapping[BucketShape, Sequence[SampleRecord]] | None = None,
        has_motion_control: bool = False,
        trigger_words: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.trigger_words = trigger_words
        self.config, self.latent_cache, self.caption_batcher = config, latent_cache, caption_batcher
        self.validation_records = validation_records or {}
        folder = latent_cache.model_folder
        model_config = DiT.load_config(folder / "transformer")
        changes = get_motion_config(config, model_config, has_motion_control=has_motion_control)
        dtype = get_storage_dtype(config.model, compute_dtype)
        transformer = DiT.from_pretrained(folder / "transformer", dtype=dtype, **changes)
        self.transformer = prepare_transformer(transformer, config.model, has_video=bool(config.data.num_frames))
        if config.model.trainable == "lora" and config.model.lora.start_from is not None:
            load_adapter_weights(self.transformer, config.model.lora.start_from)
        self.text_encoders = nn.ModuleDict()
        if config.model.text_encoders == "joint":
            for name, encoder_class in TEXT_ENCODER_CLASSES.items():
                self.text_encoders[name] = encoder_class.from_pretrained(folder / name, dtype=torch.float32)
            self.text_encoders["text_encoder"].pooler.requires_grad_(False)  # it is unused
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
        rows = bucket.shards.global_batch_size
        factor = get_scale_factor(self.vae_config)
        assert bucket.height is not None
        assert bucket.width is not None
        frames = [] if bucket.num_frames == 1 else [bucket.num_frames]
        shape = (rows, self.transformer.config.in_channels, *frames, bucket.height // factor, bucket.width // factor)
        noise = self._sample_noise(shape, generator)
        if self.config.objective.prior_preservation:
            if not self.config.data.num_frames:  # the images to preserve are square
                side = self.config.data.size_px // (factor * self.transformer.config.patch_size)
                shape = (*shape[:2], *[side * self.transformer.config.patch_size] * 2)
            prior = self._sample_noise(shape, generator)
            noise |= {f"{PRIOR_PREFIX}{name}": tensor for name, tensor in prior.items()}
        return noise

    def _sample_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Batch:
        device = generator.device
        noise = torch.randn(shape, generator=generator, device=device)
        time = objectives.sample_time(torch.rand(shape[0], generator=generator, device=device), self.config.objective)
        if offset := self.config.objective.noise_offset:
            channel_shape = (*shape[:2], *[1] * (len(shape) - 2))
            noise = noise + offset * torch.randn(channel_shape, generator=generator, device=device)
        return {"latents": noise, "timestep": self.noise_process.to_timestep(time)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        errors = self._compute_errors(batch, noise)
        loss = (errors * self.noise_process.get_loss_weight(noise["timestep"])).mean()
        if not self.config.objective.prior_preservation:
            return {"loss": loss, "mse": errors.mean()}
        prior_errors = self._compute_prior_errors(batch, noise)
        prior_loss = (prior_errors * self.noise_process.get_loss_weight(noise[f"{PRIOR_PREFIX}timestep"])).mean()
        return {
            "loss": loss + self.config.objective.prior_preservation * prior_loss,
            "mse": errors.mean(),
            "prior_mse": prior_errors.mean(),
        }

    def _compute_prior_errors(self, batch: Batch, noise: Batch) -> Tensor:
        """The mean squared difference of each sample (B,) from the base model, for a caption to preserve.

        The target is the prediction of the base model, on images that it generated of these captions, or on the
        training clips if there are none: its own prediction need not fit them.
        """
        prior = batch | {
            key.removeprefix(PRIOR_PREFIX): value for key, value in batch.items() if key.startswith(PRIOR_PREFIX)
        }
        timestep = noise[f"{PRIOR_PREFIX}timestep"]
        noisy = self.noise_process.add_noise(prior["latents"].float(), noise[f"{PRIOR_PREFIX}latents"], timestep)
        self.transformer.disable_adapters()
        with torch.no_grad():
            target = self._predict(noisy, timestep.float(), prior)
        self.transformer.enable_adapters()
        predicted = self._predict(noisy, timestep.float(), prior)
        return (predicted.float() - target.float()).square().flatten(1).mean(dim=1)

    def _compute_errors(self, batch: Batch, noise: Batch) -> Tensor:
        """The mean squared error of each sample (B,)."""
        latents, timestep = batch["latents"].float(), noise["timestep"]
        noisy = self.noise_process.add_noise(latents, noise["latents"], timestep)
        target = self.noise_process.get_target(latents, noise["latents"], timestep)
        control = self._make_motion_control(batch, latents)
        settings = {} if control is None else {"motion_control": control}
        predicted = self._predict(noisy, timestep.float(), batch, **settings)[:, : latents.shape[1]]
        return objectives.average_errors((predicted.float() - target).square(), batch.get("loss_mask"))

    def _predict(self, noisy_latents: Tensor, timestep: Tensor, batch: Batch, **settings: Any) -> Tensor:
        return self.transformer(
            noisy_latents, timestep, **self._make_model_inputs(batch, noisy_latents), **settings, return_dict=False
        )[0]

    def _make_motion_control(self, batch: Batch, latents: Tensor) -> MotionControl | None:
        """Motion control of clips; None for images, and for a model without motion control."""
        max_regions = self.transformer.config.max_regions
        if not max_regions or "region_mask" not in batch:
            return None
        phrases = {
            key.removeprefix(PHRASE_PREFIX): tensor for key, tensor in batch.items() if key.startswith(PHRASE_PREFIX)
        }
        states, mask = self._get_text_states(phrases)[0]
        return make_motion_control(batch, states, mask, latents=latents, max_regions=max_regions)

    def _make_model_inputs(self, batch: Batch, noisy_latents: Tensor) -> dict[str, Any]:
        """The transformer's arguments besides latents and timestep; images count as not cropped."""
        factor = get_scale_factor(self.vae_config)
        height, width = (factor * side for side in noisy_latents.shape[-2:])
        return make_model_inputs(
            self.transformer,
            PromptEmbeds(**self._get_prompt_embeds(batch)),
            guided=False,
            image_meta_size=(height, width, height, width, 0, 0),
            device=noisy_latents.device,
        )

    def _get_prompt_embeds(self, batch: Batch) -> dict[str, Tensor]:
        """States and masks of both encoders by their names in `PromptEmbeds`."""
        embeds: dict[str, Tensor] = {}
        for encoder, (states, mask) in enumerate(self._get_text_states(batch)):
            states_name, _, mask_name, _ = get_embed_names(encoder)
            embeds |= {states_name: states, mask_name: mask}
        return embeds

    def _get_text_states(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """States (B, L, T) and mask (B, L) of each encoder: from the batch, or computed if the encoders are trained."""
        if not self.text_encoders:
            return [(batch[states], batch[mask]) for states, mask in STATE_KEYS.values()]
        outputs = []
        for encoder, (ids, mask) in TOKEN_KEYS.items():
            states = self.text_encoders[encoder](input_ids=batch[ids], attention_mask=batch[mask]).last_hidden_state
            outputs.append((states, batch[mask]))
        return outputs

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.text_encoders.eval()  # their dropout would use randomness that does not come from sample_noise
        return self

    def validate(self) -> dict[str, float]:
        """Errors of validation samples by language: over all timesteps, and in each quantile of them."""
        errors_by_name: dict[str, list[float]] = {}
        device = self.transformer.device
        for part in iterate_validation_batches(self.validation_records, self.latent_cache, self.caption_batcher):
            batch = {name: tensor.to(device) for name, tensor in part.batch.items()}
            timestep = self.noise_process.to_timestep(part.time.to(device))
            errors = self._compute_errors(batch, {"latents": part.noise.to(device), "timestep": timestep}).tolist()
            for name in (f"validation_mse_{part.language}", f"validation_mse_{part.language}_q{part.quantile + 1}"):
                errors_by_name.setdefault(name, []).extend(errors)
        return {name: sum(errors) / len(errors) for name, errors in errors_by_name.items()}

    def sample_grid(self) -> np.ndarray:
        """An image of each prompt from fixed noise; for an adapter, those of the base model above."""
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
        pixels: Any = pipe(**(self._make_call_arguments() | settings), output_type="pt", return_dict=False)[0]
        images = rearrange((pixels.float() * 255).round().to(torch.uint8), "b c h w -> b h w c")
        return tile_images(images, columns=min(8, len(images)))

    def _generate_videos(self) -> np.ndarray:
        """One video per row, as long as the shortest clips."""
        num_frames, fps = min(self.config.data.num_frames), self.config.data.fps
        pipe = TextToVideoPipeline(**self._make_components(), default_num_frames=num_frames, default_fps=fps)
        pipe.set_progress_bar_config(disable=True)
        arguments = self._make_call_arguments()
        frames: Any = pipe(**arguments, num_frames=num_frames, output_type="uint8", return_dict=False)[0]
        return tile_images(torch.from_numpy(frames).flatten(0, 1), columns=num_frames)

    def _make_components(self) -> dict[str, Any]:
        """Components of a pipeline without text encoders, whose prompts are given as states."""
        return {
            "vae": AutoencoderKL.from_pretrained(self.latent_cache.model_folder / "vae").to(self.transformer.device),
            "transformer": self.transformer,
            "scheduler": type(self.scheduler).from_config(self.scheduler.config),
            "default_num_inference_steps": self.default_sampling[0],
            "default_guidance_scale": self.default_sampling[1],
            **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
        }

    def _make_call_arguments(self) -> dict[str, Any]:
        """Arguments of a pipeline's call: the states of the sample prompts, each prompt with its own generator."""
        samples, device, size = self.config.samples, self.transformer.device, self.config.data.size_px
        prompts = samples.prompts or ()
        arguments: dict[str, Any] = {
            "height": size,
            "width": size,
            "num_inference_steps": samples.num_inference_steps,
            "guidance_scale": samples.guidance_scale,
            "generator": [torch.Generator().manual_seed(samples.seed + row) for row in range(len(prompts))],
        }
        for prefix, texts in (("", prompts), ("negative_", [""] * len(prompts))):
            batch = {k: v.to(device) for k, v in self.caption_batcher([(text, text) for text in texts]).items()}
            arguments |= {prefix + name: tensor for name, tensor in self._get_prompt_embeds(batch).items()}
        return arguments

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write the adapter, which diffusers and PEFT load, or the whole pipeline, and verify what was written."""
        self._export(folder, dtype)
        return {"parameters": sum(p.numel() for p in self.parameters() if p.requires_grad)}

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        if self.config.model.trainable == "lora":
            settings = {"scheduler": self.scheduler, "trigger_words": self.trigger_words}
            export_adapter(folder, dtype, transformer=self.transformer, **settings)
        else:
            base, modules = self.latent_cache.model_folder, {"transformer": self.transformer, **self.text_encoders}
            export_pipeline(folder, dtype, base=base, trained_modules=modules, scheduler=self.scheduler)
