"""Noise in, latents out: drawn in float32 from one generator for each picture, decoded by the VAE.

B batch; latents are B C Y X or B C F Y X.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from diffusers import AutoencoderKL
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from dianjing.dit import Conditioning, DiT
from dianjing.pipelines import validation
from dianjing.pipelines.prompt_embeds import PromptEmbeds, PromptPipelineBase

Generators = Generator | Sequence[Generator] | None
CallbackOnStepEnd: TypeAlias = Callable[[Any, int, Any, dict], dict] | PipelineCallback | MultiPipelineCallbacks


def sample_noise(shape: Sequence[int], generator: Generators, *, device: torch.device) -> Tensor:
    """Normal noise of `shape` (B, ...), picture by picture, always in float32.

    Of a list each picture has a generator to itself, so that a seed gives the same picture
    whatever the batch it sits in and whatever the dtype of the model.
    """
    batch_size, *rest = shape
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * batch_size
    rows = [randn_tensor((1, *rest), generator=each, device=device, dtype=torch.float32) for each in generators]
    return torch.cat(rows)


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, C, Y, X) of the diffusion model to pictures (B, 3, height, width) on [-1, 1]."""
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]


def set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, *, device: torch.device) -> Tensor:
    """Start a new run and return its timesteps (S,); S is larger than asked where steps are of higher order."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it looks for the first timestep, which waits for the device
    return scheduler.timesteps


def prepare_extra_step_kwargs(scheduler: SchedulerMixin, **candidate_kwargs: Any) -> dict[str, Any]:
    """Of the options offered (eta, generator) those that this scheduler's step takes."""
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in candidate_kwargs.items() if name in taken}


def apply_cfg(
    noise_pred_uncond: Tensor, noise_pred_text: Tensor, *, guidance_scale: float, guidance_rescale: float = 0.0
) -> Tensor:
    """Push the prediction away from the negative prompt.

    Source: Ho & Salimans 2022 (arXiv 2207.12598), Eq. 6, with w + 1 as the scale.
    """
    guided = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
    return rescale_noise_cfg(guided, noise_pred_text, guidance_rescale=guidance_rescale) if guidance_rescale else guided


def rescale_noise_cfg(noise_cfg: Tensor, noise_pred_text: Tensor, *, guidance_rescale: float) -> Tensor:
    """Give the guided prediction part of its old standard deviation back; large scales overexpose without.

    Source: Lin et al. 2024 (arXiv 2305.08891), Eqs. 15 and 16.
    """
    axes = tuple(range(1, noise_cfg.ndim))
    rescaled = noise_cfg * (noise_pred_text.std(dim=axes, keepdim=True) / noise_cfg.std(dim=axes, keepdim=True))
    return guidance_rescale * rescaled + (1 - guidance_rescale) * noise_cfg


MAX_PRECOMPUTED_STEPS = 64  # so that 1000 steps of a batch do not fill the memory with modulations


def precompute_conditioning(
    transformer: DiT,
    timesteps: Tensor,
    embeds: PromptEmbeds,
    *,
    guided: bool,
    latent_size: tuple[int, int],
    image_meta_size: tuple[int, ...],
    **video_kwargs: Any,
) -> Conditioning:
    """Prepare the first `STEPS_AT_ONCE` of timesteps (S,), which stay as exact as they are given.

    Where guided, the negative prompts come first: 2B rows. size is (height, width) in latents;
    image_meta_size holds six numbers in px; film is what else `DiT.condition` takes, of 2B rows.
    """
    inputs = make_model_inputs(
        transformer, embeds, guided=guided, image_meta_size=image_meta_size, device=timesteps.device
    )
    return transformer.compute_conditioning(
        timesteps[:MAX_PRECOMPUTED_STEPS], latent_size=latent_size, **inputs, **video_kwargs
    )


def make_model_inputs(
    transformer: DiT, embeds: PromptEmbeds, *, guided: bool, image_meta_size: tuple[int, ...], device: torch.device
) -> dict[str, Any]:
    """Text and, where the model was trained with it, size: under the names of `DiT.forward`."""
    inputs: dict[str, Any] = dict(embeds.get_model_inputs(guided=guided))
    rows = len(inputs["encoder_hidden_states"])
    if transformer.config.use_style_cond_and_image_meta_size:
        inputs["image_meta_size"] = torch.tensor([image_meta_size], dtype=torch.float32, device=device).repeat(rows, 1)
        inputs["style"] = torch.zeros(rows, dtype=torch.long, device=device)  # the only style there is
    return inputs


def predict_model_output(
    transformer: DiT,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    controlnet_block_samples: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Predictions (B, C, Y, X) in float32: for the negative prompts, where guided, and for the prompts.

    `condition` is of this one step; residuals are a ControlNet's. A learned variance is left out: no scheduler here
    uses it.
    """
    copies = conditioning.batch_size // len(latents)
    batch = torch.cat([latents] * copies).to(conditioning.text_keys[0].dtype)
    # a cache over the steps, where one is switched on, keeps its state under a name
    with transformer.cache_context("cond_uncond") if transformer.is_cache_enabled else nullcontext():
        output = transformer(
            batch, conditioning=conditioning, controlnet_block_samples=controlnet_block_samples, return_dict=False
        )[0]
    return output[:, : latents.shape[1]].float().chunk(copies)


def combine_predictions(predictions: tuple[Tensor, ...], *, guidance_scale: float, guidance_rescale: float) -> Tensor:
    """One prediction (B, C, Y, X): guided where there are two."""
    return (
        predictions[0]
        if len(predictions) == 1
        else apply_cfg(*predictions, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale)
    )


PrecomputeFn = Callable[..., Conditioning]  # (timesteps, text, *, guided) -> what the latents do not change
StepCallback = Callable[[int, Tensor, Tensor, PromptEmbeds], tuple[Tensor, PromptEmbeds]]
PredictFn = Callable[[Tensor, Conditioning], tuple[Tensor, ...]]


class SamplingPipelineBase(PromptPipelineBase):
    """For pipelines over text encoders, transformer, scheduler and vae."""

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "prompt_embeds_2",
        "negative_prompt_embeds_2",
    ]

    def _set_sampling_params(
        self, num_inference_steps: int | None, guidance_scale: float | None, guidance_rescale: float
    ) -> int:
        """Check and keep what a call is run with, the defaults where None; return the number of steps."""
        steps = validation.check_num_inference_steps(
            validation.value_or_default(num_inference_steps, self.config.default_num_inference_steps)
        )
        scale = validation.check_guidance_scale(
            validation.value_or_default(guidance_scale, self.config.default_guidance_scale)
        )
        self._guidance_scale, self._guidance_rescale = scale, validation.check_guidance_rescale(guidance_rescale)
        self._interrupt = False
        return steps

    def _make_step_callback(
        self, callback: CallbackOnStepEnd | None, tensor_names: Sequence[str]
    ) -> StepCallback | None:
        """What is called after each step, its tensor names checked."""
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensor_names = callback.tensor_inputs
        tensor_names = validation.check_callback_inputs(tensor_names, self._callback_tensor_inputs)
        return None if callback is None else partial(self._run_step_callback, callback, tensor_names)

    def _denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        extra_step_kwargs: Mapping[str, Any],
        step_callback: StepCallback | None,
        precompute: PrecomputeFn,
        predict: PredictFn,
    ) -> Tensor:
        """From noise to latents (B, C, ...), in float32 between the steps.

        look_ahead prepares as many of the timesteps as it likes; predict is of one step, guided or not.
        """
        self._num_timesteps = len(timesteps)
        ahead: Conditioning | None = None
        first = 0  # the step that `ahead` begins with
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self._interrupt:
                    break
                self._current_timestep = timestep
                guided = self.do_classifier_free_guidance and embeds.negative_prompt_embeds is not None
                rows = embeds.batch_size * (2 if guided else 1)
                if ahead is None or ahead.batch_size != rows or step - first == ahead.num_steps:
                    ahead, first = precompute(timesteps[step:], embeds, guided=guided), step
                scaled = self.scheduler.scale_model_input(latents, timestep)
                predictions = predict(scaled, ahead.select_step(step - first))
                prediction = combine_predictions(
                    predictions, guidance_scale=self.guidance_scale, guidance_rescale=self.guidance_rescale
                )
                latents = self.scheduler.step(prediction, timestep, latents, **extra_step_kwargs, return_dict=False)[0]
                if step_callback is not None:
                    latents, new_text = step_callback(step, timestep, latents, embeds)
                    embeds, ahead = new_text, ahead if new_text is embeds else None
                progress_bar.update()
        self._current_timestep = None
        return latents

    def _run_step_callback(
        self,
        callback: CallbackOnStepEnd,
        tensor_names: list[str],
        step: int,
        timestep: Tensor,
        latents: Tensor,
        embeds: PromptEmbeds,
    ) -> tuple[Tensor, PromptEmbeds]:
        """Show the user the named tensors, and take what comes back: the same `Text` where it was left alone."""
        shown = {name: latents if name == "latents" else getattr(embeds, name) for name in tensor_names}
        seen = {name: tensor._version for name, tensor in shown.items() if tensor is not None}
        returned = callback(self, step, timestep, dict(shown)) or {}
        changed = {
            name: tensor
            for name, tensor in returned.items()
            if name in shown and (tensor is not shown[name] or (tensor is not None and tensor._version != seen[name]))
        }
        latents = changed.pop("latents", latents)
        return latents, replace(embeds, **changed) if changed else embeds


def pixels_to_uint8(pixels: Tensor) -> Tensor:
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
