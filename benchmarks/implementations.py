"""The implementations that are compared, step by step, from the same latents and prompt embeddings.

Latents are (1, C, Y, X) before guidance doubles the batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers import DDIMScheduler, HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from benchmarks.model_sizes import SEED, ModelSize
from dianjing.dit import Conditioning, DiT
from dianjing.pipelines.denoiser import combine_predictions, precompute_conditioning, predict_model_output
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.schedulers import set_timesteps

GUIDANCE_SCALE = 5.0
IMAGE_STEPS = 20  # over which the precomputation is spread
FORWARD_TIMESTEP = 496  # exact in bfloat16: the deviation is then the model's own
VAE_SCALE_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class DenoisingInputs:
    """Inputs of every implementation, in float32: initial noise (1, C, Y, X), prompt embeddings, number of steps.

    The sampler is DDIM with eta 0.
    """

    latents: Tensor
    prompt_embeds: PromptEmbeds
    num_inference_steps: int

    @property
    def image_meta_size(self) -> tuple[int, ...]:
        height, width = (VAE_SCALE_FACTOR * side for side in self.latents.shape[-2:])
        return (1024, 1024, height, width, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One model with its denoising loop.

    predict: one forward pass. denoise: starts a run and yields the latents of each step. precompute: the work that is
    done once for an image of IMAGE_STEPS steps, None if there is none.
    """

    name: str
    predict: Callable[[], Tensor]
    denoise: Callable[[], Iterator[Tensor]]
    precompute: Callable[[], object] | None = None


def make_denoising_inputs(size: ModelSize, *, device: torch.device) -> DenoisingInputs:
    """Return random noise and random text states, with at most 20 tokens unmasked."""
    generator = torch.Generator().manual_seed(SEED)
    config = size.config

    def states(length: int, width: int) -> Tensor:
        return torch.randn(1, length, width, generator=generator).to(device)

    def mask(length: int) -> Tensor:
        return (torch.arange(length, device=device) < 20).long()[None]

    embeds: dict[str, Tensor] = {}
    for prefix in ("", "negative_"):
        for suffix, length, width in (
            ("", config["text_len"], config["cross_attention_dim"]),
            ("_2", config["text_len_t5"], config["cross_attention_dim_t5"]),
        ):
            embeds[f"{prefix}prompt_embeds{suffix}"] = states(length, width)
            embeds[f"{prefix}prompt_attention_mask{suffix}"] = mask(length)
    shape = (1, config["in_channels"], size.latent_size, size.latent_size)
    latents = torch.randn(shape, generator=generator).to(device)
    return DenoisingInputs(
        latents=latents, prompt_embeds=PromptEmbeds(**embeds), num_inference_steps=size.num_inference_steps
    )


def make_ddim_scheduler() -> DDIMScheduler:
    """Return the scheduler of Hunyuan-DiT."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.03,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def cast_prompt_embeds(prompt_embeds: PromptEmbeds, dtype: torch.dtype) -> PromptEmbeds:
    """Cast the text states to a dtype; the masks keep theirs."""
    values = {field.name: getattr(prompt_embeds, field.name) for field in fields(PromptEmbeds)}
    return PromptEmbeds(
        **{name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
    )


def make_diffusers_inputs(
    model: HunyuanDiT2DModel, denoising_inputs: DenoisingInputs, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the arguments that diffusers' pipeline gives to the model at every step.

    Source: diffusers 0.42.1, HunyuanDiTPipeline.__call__, part 7.
    """
    device, config = denoising_inputs.latents.device, model.config
    grid = tuple(side // config.patch_size for side in denoising_inputs.latents.shape[-2:])
    crops = get_resize_crop_region_for_grid(grid, 512 // 8 // config.patch_size)
    rotary = get_2d_rotary_pos_embed(config.attention_head_dim, crops, grid, device=device, output_type="pt")
    return {
        **cast_prompt_embeds(denoising_inputs.prompt_embeds, dtype).get_model_inputs(guided=True),
        "image_meta_size": torch.tensor([denoising_inputs.image_meta_size] * 2, dtype=dtype, device=device),
        "style": torch.zeros(2, dtype=torch.long, device=device),
        "image_rotary_emb": rotary,
    }


def make_diffusers_implementation(
    name: str, model: HunyuanDiT2DModel, denoising_inputs: DenoisingInputs
) -> Implementation:
    """Return diffusers' model in diffusers' loop.

    Source: diffusers 0.42.1, HunyuanDiTPipeline.__call__, part 8, line by line.
    """
    dtype, device = model.dtype, denoising_inputs.latents.device
    inputs = make_diffusers_inputs(model, denoising_inputs, dtype)
    noise = denoising_inputs.latents.to(dtype)

    def predict() -> Tensor:
        timestep = torch.tensor([FORWARD_TIMESTEP] * 2, device=device).to(dtype)
        return model(torch.cat([noise] * 2), timestep, **inputs, return_dict=False)[0]

    def denoise() -> Iterator[Tensor]:
        scheduler = make_ddim_scheduler()
        scheduler.set_timesteps(denoising_inputs.num_inference_steps, device=device)
        return iterate_steps(scheduler)

    def iterate_steps(scheduler: DDIMScheduler) -> Iterator[Tensor]:
        latents = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            latent_model_input = torch.cat([latents] * 2)
            latent_model_input = scheduler.scale_model_input(latent_model_input, t)
            t_expand = torch.tensor([t] * latent_model_input.shape[0], device=device)
            t_expand = t_expand.to(dtype=latent_model_input.dtype)
            noise_pred = model(latent_model_input, t_expand, **inputs, return_dict=False)[0]
            noise_pred, _ = noise_pred.chunk(2, dim=1)
            noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
            noise_pred = noise_pred_uncond + GUIDANCE_SCALE * (noise_pred_text - noise_pred_uncond)
            latents = scheduler.step(noise_pred, t, latents, eta=0.0, generator=None, return_dict=False)[0]
            yield latents

    return Implementation(name=name, predict=predict, denoise=denoise)


def make_dianjing_implementation(name: str, model: DiT, denoising_inputs: DenoisingInputs) -> Implementation:
    """Return Dianjing's model in its loop; all that is independent of the latents is computed before the first step."""
    dtype, device = model.dtype, denoising_inputs.latents.device
    prompt_embeds = cast_prompt_embeds(denoising_inputs.prompt_embeds, dtype)

    def make_conditioning(timesteps: Tensor) -> Conditioning:
        height, width = denoising_inputs.latents.shape[-2:]
        return precompute_conditioning(
            model,
            timesteps,
            prompt_embeds,
            guided=True,
            latent_size=(height, width),
            image_meta_size=denoising_inputs.image_meta_size,
        )

    def predict() -> Tensor:
        conditioning = make_conditioning(torch.tensor([FORWARD_TIMESTEP], device=device))
        noise = torch.cat([denoising_inputs.latents] * 2).to(dtype)
        return model(noise, conditioning=conditioning.select_step(0), return_dict=False)[0]

    def denoise() -> Iterator[Tensor]:
        scheduler = make_ddim_scheduler()
        timesteps = set_timesteps(scheduler, denoising_inputs.num_inference_steps, device=device)
        return iterate_steps(scheduler, timesteps, make_conditioning(timesteps))

    def iterate_steps(scheduler: DDIMScheduler, timesteps: Tensor, conditioning: Conditioning) -> Iterator[Tensor]:
        latents = denoising_inputs.latents * scheduler.init_noise_sigma
        for step, timestep in enumerate(timesteps):
            scaled = scheduler.scale_model_input(latents, timestep)
            predictions = predict_model_output(model, scaled, conditioning.select_step(step))
            prediction = combine_predictions(predictions, guidance_scale=GUIDANCE_SCALE, guidance_rescale=0.0)
            latents = scheduler.step(prediction, timestep, latents, eta=0.0, generator=None, return_dict=False)[0]
            yield latents

    def precompute() -> Conditioning:
        return make_conditioning(set_timesteps(make_ddim_scheduler(), IMAGE_STEPS, device=device))

    return Implementation(name=name, predict=predict, denoise=denoise, precompute=precompute)
