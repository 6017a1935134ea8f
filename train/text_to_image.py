"""The text-to-image task: both text encoders and the DiT, jointly, on v-prediction.

B batch, C latent channels, L text tokens; latents are (B, C, Y, X).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from dianjing.dit import DiT
from dianjing.train import objectives
from dianjing.train.config import TextToImageModel, TextToImageObjective, TextToImageSamples
from dianjing.train.data import Batch, Sample
from dianjing.train.loop import Task, load_weights, save_module
from dianjing.train.pictures import tile, to_pixels, to_uint8
from dianjing.train.principal import as_convolution

TEXT_KEYS = ("ids", "mask", "ids_t5", "mask_t5")
TRAINED_PARTS = ("transformer", "text_encoder", "text_encoder_2")


class BilingualCaptions:
    """Captions of one language or the other, or none, as the token ids of both encoders."""

    def __init__(self, model: TextToImageModel, objective: TextToImageObjective) -> None:
        assert model.tokenizers is not None, "the tokenizers are made before the task"
        self.tokenizer = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer")
        self.tokenizer_2 = AutoTokenizer.from_pretrained(model.tokenizers / "tokenizer_2")
        self.cores = (
            _fixed_length(self.tokenizer, model.text_len),
            _fixed_length(self.tokenizer_2, model.text_len_t5),
        )
        self.chinese, self.dropout = objective.chinese, objective.caption_dropout

    def __call__(self, samples: Sequence[Sample], draws: np.ndarray) -> Batch:
        """draws (B, 2) on [0, 1): the first decides on dropout, the second on the language."""
        texts = [
            "" if dropped < self.dropout
            else sample.text_zh if language < self.chinese
            else sample.text_en
            for sample, (dropped, language) in zip(samples, draws, strict=True)
        ]  # fmt: skip
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> Batch:
        """ids and masks (B, L) of both encoders, padded to their fixed lengths."""
        (ids, mask), (ids_t5, mask_t5) = [_tokens(core, texts) for core in self.cores]
        return {"ids": ids, "mask": mask, "ids_t5": ids_t5, "mask_t5": mask_t5}


def _fixed_length(tokenizer: PreTrainedTokenizerBase, length: int) -> Tokenizer:
    """Its own core, which takes half the time of tokenizer(texts, return_tensors="pt")."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.enable_truncation(length)
    core.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return core


def _tokens(core: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    assert core.padding is not None, "made by _fixed_length"
    ids = torch.tensor([tokens.ids for tokens in core.encode_batch_fast(list(texts))])
    return ids, (ids != core.padding["pad_id"]).long()


def make_scheduler(objective: TextToImageObjective) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_start=objective.beta_start,
        beta_end=objective.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",  # starts at the noisiest timestep (Lin et al. 2024)
    )


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
    """Xavier everywhere, modulation and output at zero (DiT: Peebles & Xie 2023, Sec. 3.2)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm_out.linear", "proj_out")) or name == "proj_out":
            nn.init.zeros_(module.weight)
    nn.init.normal_(transformer.text_embedding_padding, std=0.02)


class TextToImageTask(Task):
    """BertModel + T5EncoderModel + DiT against a frozen autoencoder."""

    def __init__(
        self, model: TextToImageModel, objective: TextToImageObjective, samples: TextToImageSamples,
        captions: BilingualCaptions, *, size_px: int,
    ) -> None:  # fmt: skip
        super().__init__()
        vae = AutoencoderKL.from_pretrained(model.vae).requires_grad_(False).eval()
        side = size_px // 2 ** (len(vae.config.block_out_channels) - 1)
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
                load_weights(getattr(self, part), model.start_from / part)
        self.objective, self.samples, self.captions = objective, samples, captions
        self.frozen = (vae, as_convolution(vae))  # in a tuple, so that they are not registered
        alphas = objectives.scaled_linear_alphas_cumprod(objective.beta_start, objective.beta_end)
        self.register_buffer("alphas_cumprod", alphas, persistent=False)
        self.encode_pictures, self.predict = self._encode_pictures, self._predict

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        vae, convolution = self.frozen
        vae.to(device, dtype, memory_format=torch.channels_last)
        if convolution is not None:
            convolution.to(device)

    def compile_parts(self, mode: str) -> None:
        self.encode_pictures = torch.compile(self._encode_pictures, mode=mode)
        self.predict = torch.compile(self._predict, mode=mode)

    def draw(self, batch_size: int, generator: torch.Generator) -> Batch:
        device, shape = generator.device, (batch_size, *self.latent_shape)
        return {
            "latents": torch.randn(shape, generator=generator, device=device),
            "timestep": self._timesteps(torch.rand(batch_size, generator=generator, device=device)),
        }

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        latents, timestep = self.encode_pictures(batch["images"]), noise["timestep"]
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]
        noisy = objectives.add_noise(latents, noise["latents"], alpha_bar)
        target = objectives.velocity(latents, noise["latents"], alpha_bar)
        predicted = self.predict(noisy, timestep, *(batch[key] for key in TEXT_KEYS))
        errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        weighted = errors
        if self.objective.min_snr_gamma is not None:
            gamma = self.objective.min_snr_gamma
            weighted = errors * objectives.min_snr_weight(alpha_bar.flatten(), gamma=gamma)
        return {"loss": weighted.mean(), "v_error": errors.mean()}

    def _timesteps(self, u: Tensor) -> Tensor:
        kind = self.objective.timesteps
        if kind == "stratified":
            u = objectives.stratified_positions(u)
        elif kind == "logit_normal":
            mean, std = self.objective.logit_mean, self.objective.logit_std
            u = objectives.logit_normal_positions(u, mean=mean, std=std)
        return objectives.to_timestep(u)

    @torch.no_grad()
    def _encode_pictures(self, images: Tensor) -> Tensor:
        vae, convolution = self.frozen
        with torch.autocast(images.device.type, enabled=False):  # its weights are in their dtype
            if convolution is not None:
                return convolution(to_pixels(images)) * vae.config.scaling_factor
            pixels = to_pixels(images).to(vae.dtype)
            mean, _ = vae.quant_conv(vae.encoder(pixels)).float().chunk(2, dim=1)
        return mean.contiguous() * vae.config.scaling_factor

    def _predict(
        self, noisy: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor, ids_t5: Tensor,
        mask_t5: Tensor,
    ) -> Tensor:  # fmt: skip
        text = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        text_t5 = self.text_encoder_2(input_ids=ids_t5, attention_mask=mask_t5).last_hidden_state
        return self.transformer(
            noisy, timestep.to(noisy.dtype),
            encoder_hidden_states=text, text_embedding_mask=mask,
            encoder_hidden_states_t5=text_t5, text_embedding_mask_t5=mask_t5,
            return_dict=False,
        )[0]  # fmt: skip

    def grid(self) -> np.ndarray:
        """One picture for each prompt, always from the same noise."""
        samples, device = self.samples, self.alphas_cumprod.device
        vae, _ = self.frozen
        tokens = self.captions.encode([*samples.prompts, *[""] * len(samples.prompts)])
        text = [tokens[key].to(device) for key in TEXT_KEYS]
        scheduler = make_scheduler(self.objective)
        scheduler.set_timesteps(samples.steps, device=device)
        generator = torch.Generator().manual_seed(samples.seed)
        latents = torch.randn((len(samples.prompts), *self.latent_shape), generator=generator)
        latents = latents.to(device)
        for timestep in scheduler.timesteps:
            twice = torch.cat([latents, latents])
            prompted, empty = self._predict(twice, timestep.expand(len(twice)), *text).chunk(2)
            guided = empty.float() + samples.guidance_scale * (prompted.float() - empty.float())
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        with torch.autocast(device.type, enabled=False):
            pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
        return tile(to_uint8(pixels), columns=min(8, len(pixels)))

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
