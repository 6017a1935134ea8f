"""Words to pictures and films: both text encoders and the DiT, jointly, on v-prediction.

B batch, C latent channels, F frames, L text tokens; latents are (B, C, Y, X) or (B, C, F, Y, X).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from dianjing.dit import DiT, MotionControl
from dianjing.dit.motion.control import FLOW_GRID
from dianjing.dit.motion.flow_field import cell_centers, region_moments
from dianjing.dit.motion.warp import MotionTrack as MotionPath
from dianjing.train.config.text_to_image import (
    TextToImageModelConfig,
    TextToImageObjectiveConfig,
    TextToImageSamplesConfig,
)
from dianjing.train.data.captions import TEXT_KEYS, BilingualCaptionEncoder
from dianjing.train.data.images import stack_images, tile_images, to_pixels, to_uint8
from dianjing.train.data.motion_control import MOTION_CONTROL_KEYS, encode_motion_control
from dianjing.train.data.samples import Batch, ClipSample
from dianjing.train.data.schedule import Bucket
from dianjing.train.diffusion import objectives
from dianjing.train.diffusion.noise_process import init_warp_guidance, make_dpm_scheduler, make_vp_diffusion
from dianjing.train.diffusion.objectives import flow_loss
from dianjing.train.export import load_weights, save_module
from dianjing.train.tasks.base import Task
from dianjing.train.tasks.pca_encoder import fold_to_conv

TRAINED_MODULES = ("transformer", "text_encoder", "text_encoder_2")
MOTION_PREFIXES = ("motion_blocks.", "motion_conditioner.")  # of the transformer; a picture model has none
FLOW_FIELD_PREFIX = "motion_conditioner.flow_field."


def _is_trainable(name: str, trainable: str) -> bool:
    """Whether a weight of the task is, where not all are."""
    if trainable == "image":
        return name.startswith("transformer.") and not name.removeprefix("transformer.").startswith(MOTION_PREFIXES)
    name = name.removeprefix("transformer.")
    return name.startswith(FLOW_FIELD_PREFIX) == (trainable == "flow_field") and name.startswith(MOTION_PREFIXES)


def make_transformer(model: TextToImageModelConfig, *, channels: int, sample_size: int) -> DiT:
    return DiT(
        **model.transformer.model_dump(),
        in_channels=channels,
        sample_size=sample_size,
        learn_sigma=False,
        cross_attention_dim=model.bert.hidden_size,
        cross_attention_dim_t5=model.t5.d_model,
        text_len=model.text_len,
        text_len_t5=model.text_len_t5,
        use_style_cond_and_image_meta_size=False,
    )


@torch.no_grad()
def init_transformer(transformer: DiT) -> None:
    """Xavier everywhere, modulation and output at zero (DiT: Peebles & Xie 2023, Sec. 3.2); film starts as nothing."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm_out.linear", "proj_out")) or name == "proj_out":
            nn.init.zeros_(module.weight)
    nn.init.normal_(transformer.text_embedding_padding, std=0.02)
    for part in (*(transformer.motion_blocks or ()), *filter(None, (transformer.motion_conditioner,))):
        part.zero_init()


class TextToImageTask(Task):
    """BertModel + T5EncoderModel + DiT against a frozen autoencoder."""

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
        """probe: clips whose clicks are shown in the sample grid."""
        super().__init__()
        vae = AutoencoderKL.from_pretrained(model.vae).requires_grad_(False).eval()
        side = size_px // 2 ** (len(vae.config.block_out_channels) - 1)
        self.size_px = size_px
        self.latent_shape = (vae.config.latent_channels, side, side)
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
        # nothing reads the pooler; it stays so that the folder loads as a whole BertModel
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
            for part in TRAINED_MODULES:
                load_weights(getattr(self, part), model.start_from / part, new_prefixes=MOTION_PREFIXES)
        self.trainable = model.trainable
        if model.trainable != "all":
            for name, weight in self.named_parameters():
                weight.requires_grad_(_is_trainable(name, model.trainable))
        self.objective, self.samples, self.caption_encoder, self.validation_clips = (
            objective,
            samples,
            caption_encoder,
            validation_clips,
        )
        self.frozen_modules = (vae, fold_to_conv(vae))  # in a tuple, so that they are not registered
        self.noise_process = make_vp_diffusion(objective)
        init_warp_guidance(self.transformer, self.noise_process)
        if model.transformer.use_flow_field and model.trainable in ("all", "flow_field"):
            assert caption_encoder.motion_control_sampler is not None, "checked with the transformer's shape"
            caption_encoder.motion_control_sampler.flow_grid = side
        self.encode_images, self.predict = self._encode_images, self._predict

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        vae, convolution = self.frozen_modules
        vae.to(device, dtype, memory_format=torch.channels_last)
        if convolution is not None:
            convolution.to(device)
        self.noise_process = self.noise_process.to(device)

    def compile_modules(self, mode: str) -> None:
        self.encode_images = torch.compile(self._encode_images, mode=mode)
        self.predict = torch.compile(self._predict, mode=mode)

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        device, rows = generator.device, bucket.shards.global_batch_size
        channels, *sides = self.latent_shape
        shape = (rows, channels, *sides) if bucket.num_frames == 1 else (rows, channels, bucket.num_frames, *sides)
        latents = torch.randn(shape, generator=generator, device=device)
        positions = objectives.sample_time(torch.rand(rows, generator=generator, device=device), self.objective)
        if bucket.num_frames > 1:
            positions = objectives.shift_time(positions, shift=self.objective.clip_timestep_shift)
        return {"latents": latents, "timestep": self.noise_process.to_timestep(positions)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        latents, timestep = self.encode_images(batch["images"]), noise["timestep"]
        click = None
        if MOTION_CONTROL_KEYS[0] in batch:
            click = self._encode_motion_control(
                batch, batch["images"][:, 0], latents[:, :, 0], num_frames=latents.shape[2]
            )
        metrics: dict[str, Tensor] = {}
        if "backward_flow" in batch:
            metrics["flow_loss"] = self._flow_loss(click, batch[MOTION_CONTROL_KEYS[0]], batch["backward_flow"])
        if self.trainable == "flow_field":
            return {"loss": metrics["flow_loss"], **metrics}
        noisy = self.noise_process.add_noise(latents, noise["latents"], timestep)
        target = self.noise_process.get_target(latents, noise["latents"], timestep)
        predicted = self.predict(noisy, timestep, [batch[key] for key in TEXT_KEYS], click)
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
        at = cell_centers(*target_flow.shape[3:5], device=target_flow.device)
        return flow_loss(
            conditioner.predict_backward_flow(motion_control, region_moments(masks), target_flow.shape[2], points=at),
            target_flow,
        )

    def _encode_motion_control(
        self, batch: Batch, images: Tensor, first_frame: Tensor, *, num_frames: int
    ) -> MotionControl:
        """What the tensors of CLICK_KEYS ask of pictures uint8 (B, H, W, 3), whose latents are first_frame."""
        click = encode_motion_control(self.text_encoder, first_frame, [batch[key] for key in MOTION_CONTROL_KEYS])
        if self.transformer.motion_conditioner is None or self.trainable == "flow_field":
            return click
        masks, pixels = batch[MOTION_CONTROL_KEYS[0]], to_pixels(images)
        path = MotionPath.from_masks(masks, grid_size=FLOW_GRID)
        click, _ = self.transformer.motion_conditioner.with_warp(
            click, pixels, path, num_frames=num_frames, encode=self._encode_pixels
        )
        return click

    @torch.no_grad()
    def _encode_images(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) or (B, F, H, W, 3) to latents."""
        latents = self._encode_pixels(to_pixels(images.flatten(0, -4)))
        return latents if images.ndim == 4 else rearrange(latents, "(b f) c y x -> b c f y x", b=len(images))

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), from -1 to 1, to latents."""
        vae, convolution = self.frozen_modules
        with torch.autocast(pixels.device.type, enabled=False):  # its weights are in their dtype
            if convolution is not None:
                latents = convolution(pixels)
            else:
                latents, _ = vae.quant_conv(vae.encoder(pixels.to(vae.dtype))).float().chunk(2, dim=1)
        return latents.contiguous() * vae.config.scaling_factor

    def _predict(
        self,
        noisy_latents: Tensor,
        timestep: Tensor,
        text_tensors: Sequence[Tensor],
        motion_control: MotionControl | None = None,
    ) -> Tensor:
        """text: tensors of TEXT_KEYS."""
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
        """A picture for each prompt, eight a row; then films and clicks, one a row; always from the same noise."""
        samples = self.samples
        rows = []
        if samples.prompts:
            pictures = self._generate_pixels(self.caption_encoder.encode(samples.prompts), num_frames=1)[:, 0]
            rows.append(tile_images(to_uint8(pictures), columns=min(8, len(pictures))))
        if samples.video_prompts:
            batch = self.caption_encoder.encode(samples.video_prompts)
            if self.caption_encoder.motion_control_sampler is not None:
                batch |= self.caption_encoder.motion_control_sampler.make_empty(
                    np.zeros((len(samples.video_prompts), 2)), size_px=self.size_px
                )
                batch["has_first_frame"].zero_()
            films = self._generate_pixels(batch, num_frames=samples.num_frames)
            rows.append(tile_images(to_uint8(films.flatten(0, 1)), columns=samples.num_frames))
        if self.validation_clips and self.caption_encoder.motion_control_sampler is not None:
            draws = np.random.default_rng(samples.seed).random((len(self.validation_clips), 2))
            batch = self.caption_encoder(self.validation_clips, draws, kind="controlled")
            batch["has_first_frame"].fill_(1.0)
            images = torch.from_numpy(np.stack([clip.frames for clip in self.validation_clips]))
            pictures = images[:, 0].to(self.transformer.device)
            clips = self._generate_pixels(batch, num_frames=images.shape[1], first_frames=pictures)
            rows.append(tile_images(to_uint8(clips.flatten(0, 1)), columns=images.shape[1]))
        return stack_images(rows)

    def _generate_pixels(self, batch: Batch, *, num_frames: int, first_frames: Tensor | None = None) -> Tensor:
        """Pixels (B, F, 3, H, W): guided away from nothing said and nothing asked; pictures are the first frames."""
        samples, device = self.samples, self.transformer.device
        vae, _ = self.frozen_modules
        batch = {key: tensor.to(device) for key, tensor in batch.items()}
        empty = self.caption_encoder.encode([""] * len(batch["ids"]))
        text = [torch.cat([empty[key].to(device), batch[key]]) for key in TEXT_KEYS]
        click = None
        if MOTION_CONTROL_KEYS[0] in batch:
            if first_frames is None:
                first_frames = torch.zeros(len(empty["ids"]), self.size_px, self.size_px, 3, dtype=torch.uint8)
            first_frames = torch.cat([first_frames.to(device)] * 2)
            tensors = {key: torch.cat([batch[key]] * 2) for key in MOTION_CONTROL_KEYS}
            tensors["active"][: len(empty["ids"])] = 0
            click = self._encode_motion_control(
                tensors, first_frames, self._encode_images(first_frames), num_frames=num_frames
            )
        scheduler = make_dpm_scheduler(self.objective)
        scheduler.set_timesteps(samples.num_inference_steps, device=device)
        channels, *sides = self.latent_shape
        shape = (len(batch["ids"]), channels, *([] if num_frames == 1 else [num_frames]), *sides)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(samples.seed)).to(device)
        for timestep in scheduler.timesteps:
            twice = torch.cat([latents, latents])
            nothing, prompted = self._predict(twice, timestep.expand(len(twice)), text, click).chunk(2)
            guided = nothing.float() + samples.guidance_scale * (prompted.float() - nothing.float())
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        frames = latents.unsqueeze(2) if num_frames == 1 else latents
        frames = rearrange(frames, "b c f y x -> (b f) c y x") / vae.config.scaling_factor
        with torch.autocast(device.type, enabled=False):
            pixels = vae.decode(frames.to(vae.dtype)).sample
        return pixels.unflatten(0, (-1, num_frames))

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """A Hunyuan-DiT folder that diffusers and TextToImagePipeline load."""
        vae, _ = self.frozen_modules
        for name in TRAINED_MODULES:
            save_module(getattr(self, name), folder / name, dtype)
        save_module(vae, folder / "vae", dtype)
        self.caption_encoder.tokenizer.save_pretrained(folder / "tokenizer")
        self.caption_encoder.tokenizer_2.save_pretrained(folder / "tokenizer_2")
        make_dpm_scheduler(self.objective).save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "HunyuanDiTPipeline",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
            "text_encoder": ["transformers", "BertModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "BertTokenizer"],
            "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
            "transformer": ["diffusers", "HunyuanDiT2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
        return {"parameters": sum(p.numel() for p in self.parameters())}
