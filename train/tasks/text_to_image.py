"""The text-to-image and text-to-video task: both text encoders and the DiT, trained jointly on v-prediction.

B batch, C latent channels, F frames, N images, L text tokens, R regions, H height, W width in pixels; latents are
(B, C, Y, X) or (B, C, F, Y, X).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from dianjing.dit import MotionControl
from dianjing.dit.motion.control import FLOW_GRID
from dianjing.dit.motion.flow_field import cell_centers, region_moments
from dianjing.dit.motion.warp import MotionTrack
from dianjing.pipelines.vae import decode_latents, encode_images, scale_latents
from dianjing.train.config.text_to_image import (
    TextToImageModelConfig,
    TextToImageObjectiveConfig,
    TextToImageSamplesConfig,
)
from dianjing.train.data.captions import CHOICES_KEY, MAX_TIME_KEY, TEXT_KEYS, BilingualCaptionEncoder
from dianjing.train.data.images import stack_images, tile_images, to_pixels, to_uint8
from dianjing.train.data.motion_control import MOTION_CONTROL_KEYS, encode_motion_control
from dianjing.train.data.samples import Batch, ClipSample
from dianjing.train.data.schedule import Bucket
from dianjing.train.diffusion import objectives
from dianjing.train.diffusion.noise_process import init_warp_guidance, make_dpm_scheduler, make_vp_diffusion
from dianjing.train.export import load_autoencoder, load_weights, save_module
from dianjing.train.tasks.base import Task
from dianjing.train.tasks.pca_encoder import fold_to_conv
from dianjing.train.tasks.text_to_image_model import (
    MODEL_INDEX,
    init_transformer,
    is_trainable,
    load_transformer,
    make_transformer,
)
from dianjing.weights.image_sizes import get_scale_factor

TRAINED_MODULES = ("transformer", "text_encoder", "text_encoder_2")


class TextToImageTask(Task):
    """Trains BertModel, T5EncoderModel and DiT in the latent space of a frozen autoencoder.

    `validation_clips` are clips whose motion control is shown in the sample grid.
    """

    def __init__(
        self,
        model: TextToImageModelConfig,
        objective: TextToImageObjectiveConfig,
        samples: TextToImageSamplesConfig,
        caption_encoder: BilingualCaptionEncoder,
        *,
        size_px: int,
        validation_clips: Sequence[ClipSample] = (),
    ) -> None:
        super().__init__()
        vae = load_autoencoder(model.vae).requires_grad_(False)
        side = size_px // get_scale_factor(vae.config)
        self.size_px, self.latent_shape = size_px, (vae.config.latent_channels, side, side)
        self.transformer = make_transformer(model, channels=vae.config.latent_channels, sample_size=side)
        init_transformer(self.transformer)
        if model.attention_backend is not None:
            self.transformer.set_attention_backend(model.attention_backend)
        self.text_encoder = BertModel(
            BertConfig(
                **model.bert.model_dump(),
                vocab_size=len(caption_encoder.tokenizer),
                max_position_embeddings=model.text_len,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager" if model.attention_backend == "_native_math" else None,
            )
        )
        # the pooler is unused; it stays so that the export loads as a complete BertModel
        self.text_encoder.pooler.requires_grad_(False)
        self.text_encoder_2 = T5EncoderModel(
            T5Config(
                **model.t5.model_dump(),
                vocab_size=len(caption_encoder.tokenizer_2),
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
        if model.start_from is not None:
            load_transformer(self.transformer, model.start_from / "transformer")
            for part in ("text_encoder", "text_encoder_2"):
                load_weights(getattr(self, part), model.start_from / part)
        self.trainable, self.compile_full_model = model.trainable, model.compile_full_model
        if model.trainable != "all":
            for name, weight in self.named_parameters():
                weight.requires_grad_(is_trainable(name, model.trainable))
        self.objective, self.samples = objective, samples
        self.caption_encoder, self.validation_clips = caption_encoder, validation_clips
        self.frozen_modules = (vae, fold_to_conv(vae))  # a tuple is not registered
        self.noise_process = make_vp_diffusion(objective)
        init_warp_guidance(self.transformer, self.noise_process)
        if model.transformer.use_flow_field and model.trainable in ("all", "flow_field"):
            assert caption_encoder.motion_control_sampler is not None, "checked in the run file"
            caption_encoder.motion_control_sampler.flow_grid = side
        self.encode_images, self.predict = self._encode_images, self._predict

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        vae, convolution = self.frozen_modules
        vae.to(device, dtype, memory_format=torch.channels_last)
        if convolution is not None:
            convolution.to(device)
        self.noise_process = self.noise_process.to(device)

    def compile_modules(self, mode: str) -> None:
        if not self.compile_full_model:
            self.transformer.compile_repeated_blocks(mode=mode)
            return
        self.encode_images = torch.compile(self._encode_images, mode=mode)
        self.predict = torch.compile(self._predict, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        (channels, *sides), rows, device = self.latent_shape, bucket.shards.global_batch_size, generator.device
        shape = (rows, channels, *sides) if bucket.num_frames == 1 else (rows, channels, bucket.num_frames, *sides)
        latents = torch.randn(shape, generator=generator, device=device)
        time = objectives.sample_time(torch.rand(rows, generator=generator, device=device), self.objective)
        if bucket.num_frames > 1:
            time = objectives.shift_time(time, shift=self.objective.clip_timestep_shift)
        return {"latents": latents, "timestep": self.noise_process.to_timestep(time)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        latents, timestep = self.encode_images(batch["images"]), noise["timestep"]
        control = None
        if MOTION_CONTROL_KEYS[0] in batch:
            control = self._encode_motion_control(batch, batch["images"][:, 0], latents[:, :, 0], latents.shape[2])
        metrics: dict[str, Tensor] = {}
        if "backward_flow" in batch:
            metrics["flow_loss"] = self._flow_loss(control, batch[MOTION_CONTROL_KEYS[0]], batch["backward_flow"])
        if self.trainable == "flow_field":
            return {"loss": metrics["flow_loss"], **metrics}
        timestep = (timestep * batch.get(MAX_TIME_KEY, 1)).to(timestep.dtype)
        if CHOICES_KEY in batch:
            noise = noise | {"latents": objectives.couple_noise(noise["latents"], batch[CHOICES_KEY])}
        noisy = self.noise_process.add_noise(latents, noise["latents"], timestep)
        target = self.noise_process.get_target(latents, noise["latents"], timestep)
        predicted = self.predict(noisy, timestep, [batch[key] for key in TEXT_KEYS], control)
        errors = (predicted.float() - target).square().flatten(1).mean(dim=1)
        metrics |= {
            "loss": (errors * self.noise_process.get_loss_weight(timestep)).mean(),
            "velocity_mse": errors.mean(),
        }
        return metrics | {"loss": metrics["loss"] + self.objective.flow_loss_weight * metrics.get("flow_loss", 0)}

    def _flow_loss(self, motion_control: MotionControl | None, masks: Tensor, target_flow: Tensor) -> Tensor:
        conditioner = self.transformer.motion_conditioner
        assert motion_control is not None
        assert conditioner is not None
        points = cell_centers(*target_flow.shape[3:5], device=target_flow.device)
        predicted = conditioner.predict_backward_flow(
            motion_control, region_moments(masks), target_flow.shape[2], points=points
        )
        return objectives.flow_loss(predicted, target_flow)

    def _encode_motion_control(
        self, batch: Batch, images: Tensor, first_frame: Tensor, num_frames: int
    ) -> MotionControl:
        """Motion control from the tensors of MOTION_CONTROL_KEYS, with the warp of the first frame if there is one.

        `images`, uint8 (B, H, W, 3), are the first frames, and `first_frame` (B, C, Y, X) their latents.
        """
        control = encode_motion_control(self.text_encoder, first_frame, [batch[key] for key in MOTION_CONTROL_KEYS])
        if self.transformer.motion_conditioner is None or self.trainable == "flow_field":
            return control
        masks, pixels = batch[MOTION_CONTROL_KEYS[0]], to_pixels(images)
        track = MotionTrack.from_masks(masks, grid_size=FLOW_GRID)
        control, _ = self.transformer.motion_conditioner.with_warp(
            control, pixels, track, num_frames=num_frames, encode=self._encode_pixels
        )
        return control

    @torch.no_grad()
    def _encode_images(self, images: Tensor) -> Tensor:
        """Encode images, uint8 (B, H, W, 3) or (B, F, H, W, 3), as scaled latents."""
        latents = self._encode_pixels(to_pixels(images.flatten(0, -4)))
        return latents if images.ndim == 4 else rearrange(latents, "(b f) c y x -> b c f y x", b=len(images))

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels (N, 3, H, W) on [-1, 1] as scaled latents (N, C, Y, X), float32, equal to those of a cache."""
        vae, convolution = self.frozen_modules
        with torch.autocast(pixels.device.type, enabled=False):  # the autoencoder computes in its own dtype
            if convolution is None:
                return encode_images(vae, pixels).float()
            return scale_latents(vae, convolution(pixels).contiguous())

    def _predict(
        self,
        noisy_latents: Tensor,
        timestep: Tensor,
        text_tensors: Sequence[Tensor],
        motion_control: MotionControl | None = None,
    ) -> Tensor:
        """The prediction for noisy latents, in their shape; `text_tensors` are those of TEXT_KEYS."""
        ids, mask, ids_t5, mask_t5 = text_tensors
        states = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        states_t5 = self.text_encoder_2(input_ids=ids_t5, attention_mask=mask_t5).last_hidden_state
        return self.transformer(
            noisy_latents,
            timestep.to(noisy_latents.dtype),
            encoder_hidden_states=states,
            text_embedding_mask=mask,
            encoder_hidden_states_t5=states_t5,
            text_embedding_mask_t5=mask_t5,
            motion_control=motion_control,
            return_dict=False,
        )[0]

    def sample_grid(self) -> np.ndarray:
        """Images of the prompts, eight a row, then one row for each video, always from the same noise."""
        samples, rows = self.samples, []
        if samples.prompts:
            pixels = self._generate_pixels(self.caption_encoder.encode(samples.prompts), num_frames=1)[:, 0]
            rows.append(tile_images(to_uint8(pixels), columns=min(8, len(pixels))))
        if samples.video_prompts:
            pixels = self._generate_pixels(self._encode_video_prompts(), num_frames=samples.num_frames)
            rows.append(tile_images(to_uint8(pixels.flatten(0, 1)), columns=samples.num_frames))
        if self.validation_clips and self.caption_encoder.motion_control_sampler is not None:
            uniforms = np.random.default_rng(samples.seed).random((len(self.validation_clips), 2))
            batch = self.caption_encoder(self.validation_clips, uniforms, kind="controlled")
            batch["has_first_frame"].fill_(1.0)
            images = torch.from_numpy(np.stack([clip.frames for clip in self.validation_clips]))
            first_frames = images[:, 0].to(self.transformer.device)
            pixels = self._generate_pixels(batch, num_frames=images.shape[1], first_frames=first_frames)
            rows.append(tile_images(to_uint8(pixels.flatten(0, 1)), columns=images.shape[1]))
        return stack_images(rows)

    def _encode_video_prompts(self) -> Batch:
        """Captions of the sample videos, with motion control without regions if the model takes any."""
        batch = self.caption_encoder.encode(self.samples.video_prompts)
        if self.caption_encoder.motion_control_sampler is not None:
            uniforms = np.zeros((len(self.samples.video_prompts), 2))
            batch |= self.caption_encoder.motion_control_sampler.make_empty(uniforms, size_px=self.size_px)
            batch["has_first_frame"].zero_()
        return batch

    def _generate_pixels(self, batch: Batch, *, num_frames: int, first_frames: Tensor | None = None) -> Tensor:
        """Sample with classifier-free guidance: pixels (B, F, 3, H, W) from uint8 first frames (B, H, W, 3)."""
        samples, device = self.samples, self.transformer.device
        vae, _ = self.frozen_modules
        batch = {key: tensor.to(device) for key, tensor in batch.items()}
        empty = self.caption_encoder.encode([""] * len(batch["ids"]))
        text = [torch.cat([empty[key].to(device), batch[key]]) for key in TEXT_KEYS]
        control = self._make_guided_control(batch, first_frames, num_frames=num_frames)
        scheduler = make_dpm_scheduler(self.objective)
        scheduler.set_timesteps(samples.num_inference_steps, device=device)
        channels, *sides = self.latent_shape
        shape = (len(batch["ids"]), channels, *([] if num_frames == 1 else [num_frames]), *sides)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(samples.seed)).to(device)
        for timestep in scheduler.timesteps:
            doubled = torch.cat([latents, latents])
            predicted = self._predict(doubled, timestep.expand(len(doubled)), text, control).float()
            unconditional, conditional = predicted.chunk(2)
            guided = unconditional + samples.guidance_scale * (conditional - unconditional)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        frames = latents.unsqueeze(2) if num_frames == 1 else latents
        with torch.autocast(device.type, enabled=False):  # the autoencoder computes in its own dtype
            pixels = decode_latents(vae, rearrange(frames, "b c f y x -> (b f) c y x"))
        return pixels.unflatten(0, (-1, num_frames))

    def _make_guided_control(
        self, batch: Batch, first_frames: Tensor | None, *, num_frames: int
    ) -> MotionControl | None:
        """Motion control of 2 B rows for classifier-free guidance; the unconditional half has no active phrases."""
        if MOTION_CONTROL_KEYS[0] not in batch:
            return None
        rows, device = len(batch["ids"]), self.transformer.device
        if first_frames is None:
            first_frames = torch.zeros(rows, self.size_px, self.size_px, 3, dtype=torch.uint8)
        images = torch.cat([first_frames.to(device)] * 2)
        tensors = {key: torch.cat([batch[key]] * 2) for key in MOTION_CONTROL_KEYS}
        tensors["active"][:rows] = 0
        return self._encode_motion_control(tensors, images, self._encode_images(images), num_frames=num_frames)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Write a Hunyuan-DiT folder, which diffusers and TextToImagePipeline load."""
        vae, _ = self.frozen_modules
        for name in TRAINED_MODULES:
            save_module(getattr(self, name), folder / name, dtype)
        save_module(vae, folder / "vae", dtype)
        self.caption_encoder.tokenizer.save_pretrained(folder / "tokenizer")
        self.caption_encoder.tokenizer_2.save_pretrained(folder / "tokenizer_2")
        make_dpm_scheduler(self.objective).save_pretrained(folder / "scheduler")
        (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=1) + "\n")
        return {"parameters": sum(p.numel() for p in self.parameters())}
