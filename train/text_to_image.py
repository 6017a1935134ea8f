"""Words to pictures and films: both text encoders and the DiT, jointly, on v-prediction.

B batch, C latent channels, F frames, L text tokens; latents are (B, C, Y, X) or (B, C, F, Y, X).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from einops import rearrange
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    T5Config,
    T5EncoderModel,
)

from dianjing.dit import Click, DiT
from dianjing.dit.click import SPAN
from dianjing.dit.motion_field import places, region_sizes
from dianjing.dit.moving import Path as MotionPath
from dianjing.train import objectives
from dianjing.train.clicks import CLICK_KEYS, make_click
from dianjing.train.data import Batch, Bucket, ClipSample
from dianjing.train.loop import Task
from dianjing.train.noising import Diffusion, tell_noise
from dianjing.train.pictures import stack, tile, to_pixels, to_uint8
from dianjing.train.principal import as_convolution
from dianjing.train.sections import TextToImageModel, TextToImageObjective, TextToImageSamples
from dianjing.train.texts import TEXT_KEYS, BilingualCaptions
from dianjing.train.ways import error_of_ways
from dianjing.train.weights import load_weights, save_module

TRAINED_PARTS = ("transformer", "text_encoder", "text_encoder_2")
FILM_PARTS = ("motion_blocks.", "click.")  # of the transformer; a picture model has none
FIELD_PARTS = "click.field."


def _is_trained(name: str, trained: str) -> bool:
    """Whether a weight of the task is, where not all are."""
    if trained == "pictures":
        return name.startswith("transformer.") and not name.removeprefix("transformer.").startswith(FILM_PARTS)
    name = name.removeprefix("transformer.")
    return name.startswith(FIELD_PARTS) == (trained == "field") and name.startswith(FILM_PARTS)


def make_scheduler(objective: TextToImageObjective) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_start=objective.beta_start,
        beta_end=objective.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",  # starts at the noisiest timestep (Lin et al. 2024)
    )


def noising_of(objective: TextToImageObjective) -> Diffusion:
    alphas = objectives.scaled_linear_alphas_cumprod(objective.beta_start, objective.beta_end)
    return Diffusion(alphas_cumprod=alphas, prediction="v_prediction", min_snr_gamma=objective.min_snr_gamma)


def make_transformer(model: TextToImageModel, *, channels: int, sample_size: int) -> DiT:
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
def initialise(transformer: DiT) -> None:
    """Xavier everywhere, modulation and output at zero (DiT: Peebles & Xie 2023, Sec. 3.2); film starts as nothing."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm_out.linear", "proj_out")) or name == "proj_out":
            nn.init.zeros_(module.weight)
    nn.init.normal_(transformer.text_embedding_padding, std=0.02)
    for part in (*(transformer.motion_blocks or ()), *filter(None, (transformer.click,))):
        part.start_at_nothing()


class TextToImageTask(Task):
    """BertModel + T5EncoderModel + DiT against a frozen autoencoder."""

    def __init__(
        self, model: TextToImageModel, objective: TextToImageObjective, samples: TextToImageSamples,
        captions: BilingualCaptions, *, size_px: int, probe: Sequence[ClipSample] = (),
    ) -> None:  # fmt: skip
        """probe: clips whose clicks are shown in the sample grid."""
        super().__init__()
        vae = AutoencoderKL.from_pretrained(model.vae).requires_grad_(False).eval()
        side = size_px // 2 ** (len(vae.config.block_out_channels) - 1)
        self.size_px = size_px
        self.latent_shape = (vae.config.latent_channels, side, side)
        self.transformer = make_transformer(model, channels=vae.config.latent_channels, sample_size=side)
        initialise(self.transformer)
        if model.attention_backend is not None:
            self.transformer.set_attention_backend(model.attention_backend)
        self.text_encoder = BertModel(
            BertConfig(
                **model.bert.model_dump(), vocab_size=len(captions.tokenizer),
                max_position_embeddings=model.text_len,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                attn_implementation="eager" if model.attention_backend == "_native_math" else None,
            )
        )  # fmt: skip
        # nothing reads the pooler; it stays so that the folder loads as a whole BertModel
        self.text_encoder.pooler.requires_grad_(False)
        self.text_encoder_2 = T5EncoderModel(
            T5Config(
                **model.t5.model_dump(), vocab_size=len(captions.tokenizer_2),
                feed_forward_proj="gated-gelu", dropout_rate=0.0,
            )
        )  # fmt: skip
        if model.start_from is not None:
            for part in TRAINED_PARTS:
                load_weights(getattr(self, part), model.start_from / part, new_parts=FILM_PARTS)
        self.trained, self.compile_whole = model.trained, model.compile_whole
        if model.trained != "all":
            for name, weight in self.named_parameters():
                weight.requires_grad_(_is_trained(name, model.trained))
        self.objective, self.samples, self.captions, self.probe = objective, samples, captions, probe
        self.frozen = (vae, as_convolution(vae))  # in a tuple, so that they are not registered
        self.noising = noising_of(objective)
        tell_noise(self.transformer, self.noising)
        if model.transformer.use_motion_field and model.trained in ("all", "field"):
            assert captions.clicks is not None, "checked with the transformer's shape"
            captions.clicks.told_side = side
        self.encode_pictures, self.predict = self._encode_pictures, self._predict

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        vae, convolution = self.frozen
        vae.to(device, dtype, memory_format=torch.channels_last)
        if convolution is not None:
            convolution.to(device)
        self.noising = self.noising.to(device)

    def compile_parts(self, mode: str) -> None:
        if not self.compile_whole:
            self.transformer.compile_repeated_blocks(mode=mode)
            return
        self.encode_pictures = torch.compile(self._encode_pictures, mode=mode)
        self.predict = torch.compile(self._predict, mode=mode)

    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        device, rows = generator.device, bucket.layout.global_batch
        channels, *sides = self.latent_shape
        shape = (rows, channels, *sides) if bucket.num_frames == 1 else (rows, channels, bucket.num_frames, *sides)
        latents = torch.randn(shape, generator=generator, device=device)
        positions = objectives.positions(torch.rand(rows, generator=generator, device=device), self.objective)
        if bucket.num_frames > 1:
            positions = objectives.shifted(positions, shift=self.objective.clip_shift)
        return {"latents": latents, "timestep": self.noising.timestep(positions)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        latents, timestep = self.encode_pictures(batch["images"]), noise["timestep"]
        click = None
        if CLICK_KEYS[0] in batch:
            click = self._click(batch, batch["images"][:, 0], latents[:, :, 0], num_frames=latents.shape[2])
        metrics: dict[str, Tensor] = {}
        if "ways_back" in batch:
            metrics["ways_back"] = self._error_of_ways(click, batch[CLICK_KEYS[0]], batch["ways_back"])
        if self.trained == "field":
            return {"loss": metrics["ways_back"], **metrics}
        noisy = self.noising.noisy(latents, noise["latents"], timestep)
        target = self.noising.target(latents, noise["latents"], timestep)
        predicted = self.predict(noisy, timestep, [batch[key] for key in TEXT_KEYS], click)
        errors = (predicted.float() - target).square().flatten(1).mean(dim=1)
        metrics |= {"loss": (errors * self.noising.weight(timestep)).mean(), "v_error": errors.mean()}
        return metrics | {"loss": metrics["loss"] + self.objective.ways * metrics.get("ways_back", 0)}

    def _error_of_ways(self, click: Click | None, masks: Tensor, truth: Tensor) -> Tensor:
        conditioner = self.transformer.click
        assert click is not None
        assert conditioner is not None
        at = places(*truth.shape[3:5], device=truth.device)
        return error_of_ways(conditioner.ways(click, region_sizes(masks), truth.shape[2], at=at), truth)

    def _click(self, batch: Batch, pictures: Tensor, first_frame: Tensor, *, num_frames: int) -> Click:
        """What the tensors of CLICK_KEYS ask of pictures uint8 (B, H, W, 3), whose latents are first_frame."""
        click = make_click(self.text_encoder, first_frame, [batch[key] for key in CLICK_KEYS])
        if self.transformer.click is None or self.trained == "field":
            return click
        masks, pixels = batch[CLICK_KEYS[0]], to_pixels(pictures)
        path = MotionPath.start(masks, span=SPAN)
        click, _ = self.transformer.click.with_moved(
            click, pixels, path, num_frames=num_frames, encode=self._encode_pixels
        )
        return click

    @torch.no_grad()
    def _encode_pictures(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) or (B, F, H, W, 3) to latents."""
        latents = self._encode_pixels(to_pixels(images.flatten(0, -4)))
        return latents if images.ndim == 4 else rearrange(latents, "(b f) c y x -> b c f y x", b=len(images))

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), from -1 to 1, to latents."""
        vae, convolution = self.frozen
        with torch.autocast(pixels.device.type, enabled=False):  # its weights are in their dtype
            if convolution is not None:
                latents = convolution(pixels)
            else:
                latents, _ = vae.quant_conv(vae.encoder(pixels.to(vae.dtype))).float().chunk(2, dim=1)
        return latents.contiguous() * vae.config.scaling_factor

    def _predict(
        self, noisy: Tensor, timestep: Tensor, text: Sequence[Tensor], click: Click | None = None
    ) -> Tensor:  # fmt: skip
        """text: tensors of TEXT_KEYS."""
        ids, mask, ids_t5, mask_t5 = text
        states = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        states_t5 = self.text_encoder_2(input_ids=ids_t5, attention_mask=mask_t5).last_hidden_state
        return self.transformer(
            noisy, timestep.to(noisy.dtype),
            encoder_hidden_states=states, text_embedding_mask=mask,
            encoder_hidden_states_t5=states_t5, text_embedding_mask_t5=mask_t5,
            click=click, return_dict=False,
        )[0]  # fmt: skip

    def grid(self) -> np.ndarray:
        """A picture for each prompt, eight a row; then films and clicks, one a row; always from the same noise."""
        samples = self.samples
        rows = []
        if samples.prompts:
            pictures = self._sample(self.captions.encode(samples.prompts), num_frames=1)[:, 0]
            rows.append(tile(to_uint8(pictures), columns=min(8, len(pictures))))
        if samples.films:
            batch = self.captions.encode(samples.films)
            if self.captions.clicks is not None:
                batch |= self.captions.clicks.nothing(np.zeros((len(samples.films), 2)), size_px=self.size_px)
                batch["shows_first"].zero_()
            films = self._sample(batch, num_frames=samples.num_frames)
            rows.append(tile(to_uint8(films.flatten(0, 1)), columns=samples.num_frames))
        if self.probe and self.captions.clicks is not None:
            draws = np.random.default_rng(samples.seed).random((len(self.probe), 2))
            batch = self.captions(self.probe, draws, kind="click")
            batch["shows_first"].fill_(1.0)
            images = torch.from_numpy(np.stack([clip.frames for clip in self.probe]))
            pictures = images[:, 0].to(self.transformer.device)
            clips = self._sample(batch, num_frames=images.shape[1], pictures=pictures)
            rows.append(tile(to_uint8(clips.flatten(0, 1)), columns=images.shape[1]))
        return stack(rows)

    def _sample(self, batch: Batch, *, num_frames: int, pictures: Tensor | None = None) -> Tensor:
        """Pixels (B, F, 3, H, W): guided away from nothing said and nothing asked; pictures are the first frames."""
        samples, device = self.samples, self.transformer.device
        vae, _ = self.frozen
        batch = {key: tensor.to(device) for key, tensor in batch.items()}
        empty = self.captions.encode([""] * len(batch["ids"]))
        text = [torch.cat([empty[key].to(device), batch[key]]) for key in TEXT_KEYS]
        click = None
        if CLICK_KEYS[0] in batch:
            if pictures is None:
                pictures = torch.zeros(len(empty["ids"]), self.size_px, self.size_px, 3, dtype=torch.uint8)
            pictures = torch.cat([pictures.to(device)] * 2)
            tensors = {key: torch.cat([batch[key]] * 2) for key in CLICK_KEYS}
            tensors["asked"][: len(empty["ids"])] = 0
            click = self._click(tensors, pictures, self._encode_pictures(pictures), num_frames=num_frames)
        scheduler = make_scheduler(self.objective)
        scheduler.set_timesteps(samples.steps, device=device)
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
        vae, _ = self.frozen
        for name in TRAINED_PARTS:
            save_module(getattr(self, name), folder / name, dtype)
        save_module(vae, folder / "vae", dtype)
        self.captions.tokenizer.save_pretrained(folder / "tokenizer")
        self.captions.tokenizer_2.save_pretrained(folder / "tokenizer_2")
        make_scheduler(self.objective).save_pretrained(folder / "scheduler")
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
