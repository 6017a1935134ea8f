"""Denoisers: conditioning computed ahead, the prediction of one step, and classifier-free guidance.

S steps, B batch; latents are B C Y X or B C F Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from dianjing.dit import Conditioning, DiT
from dianjing.dit.ip_adapter import ImagePrompt
from dianjing.pipelines.embeds import PromptEmbeds

MAX_PRECOMPUTED_STEPS = 64  # so that 1000 steps of a batch do not fill the memory with modulations


@dataclass(frozen=True, kw_only=True)
class SamplingStep:
    """One step of a sampling run.

    index: from 0 to num_steps - 1. latents: float32; a denoiser gets them as the scheduler scales them for the model,
    an observer as they are after the step.
    """

    index: int
    num_steps: int
    timestep: Tensor
    latents: Tensor


class Denoiser(Protocol):
    """Interface of the model of a sampling run."""

    def precompute(self, timesteps: Tensor, embeds: PromptEmbeds, *, guided: bool) -> Conditioning:
        """Compute what the latents do not change, for the first of timesteps (S,) or more.

        The result has B rows, or 2B with guidance, those of the negative prompts first.
        """
        ...

    def predict(self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning) -> tuple[Tensor, ...]:
        """Predict the model output, float32 and shaped like the latents, from the conditioning of one step.

        Two predictions with guidance, the negative prompts' first, else one.
        """
        ...


class PrecomputedConditioning:
    """Conditioning of single steps, computed by a denoiser for many timesteps at once."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self._first_index = 0
        self._embeds: PromptEmbeds | None = None
        self._conditioning: Conditioning | None = None

    def get(self, index: int, timesteps: Tensor, embeds: PromptEmbeds, *, guided: bool) -> Conditioning:
        """Return the conditioning of one of timesteps (S,); other embeddings, or guidance switched, compute it anew."""
        conditioning, step = self._conditioning, index - self._first_index
        rows = embeds.batch_size * (2 if guided else 1)
        is_valid = conditioning is not None and self._embeds is embeds and conditioning.batch_size == rows
        if conditioning is None or not is_valid or step >= conditioning.num_steps:
            conditioning, step = self.denoiser.precompute(timesteps[index:], embeds, guided=guided), 0
            self._conditioning, self._embeds, self._first_index = conditioning, embeds, index
        return conditioning.select_step(step)


@dataclass(frozen=True, kw_only=True)
class TransformerDenoiser:
    """`Denoiser` of images by the transformer alone. Sizes are (height, width), in latents and six numbers in px.

    image_prompts: of 2B rows, those of no picture first.
    """

    transformer: DiT
    latent_size: tuple[int, int]
    image_meta_size: tuple[int, ...]
    image_prompts: tuple[ImagePrompt, ...] = ()

    def precompute(self, timesteps: Tensor, embeds: PromptEmbeds, *, guided: bool) -> Conditioning:
        conditioning = precompute_conditioning(
            self.transformer,
            timesteps,
            embeds,
            guided=guided,
            latent_size=self.latent_size,
            image_meta_size=self.image_meta_size,
        )
        rows = slice(0 if guided else embeds.batch_size, None)
        return replace(conditioning, image_prompts=tuple(each.index_batch(rows) for each in self.image_prompts))

    def predict(self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning) -> tuple[Tensor, ...]:
        return predict_model_output(self.transformer, step.latents, conditioning)


def make_model_inputs(
    transformer: DiT, embeds: PromptEmbeds, *, guided: bool, image_meta_size: tuple[int, ...], device: torch.device
) -> dict[str, Any]:
    """Arguments of `DiT.forward` for the text and, if the model was trained with them, for size and style."""
    inputs: dict[str, Any] = dict(embeds.get_model_inputs(guided=guided))
    rows = len(inputs["encoder_hidden_states"])
    if transformer.config.use_style_cond_and_image_meta_size:
        size = torch.tensor([image_meta_size], dtype=torch.float32, device=device)
        inputs["image_meta_size"] = size.repeat(rows, 1)
        inputs["style"] = torch.zeros(rows, dtype=torch.long, device=device)  # the only style there is
    return inputs


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
    """Compute the conditioning of the first MAX_PRECOMPUTED_STEPS of timesteps (S,), with 2B rows if guided.

    latent_size: (height, width) in latents. image_meta_size: six numbers in px. video_kwargs: further arguments of
    `DiT.compute_conditioning`, of as many rows.
    """
    inputs = make_model_inputs(
        transformer, embeds, guided=guided, image_meta_size=image_meta_size, device=timesteps.device
    )
    return transformer.compute_conditioning(
        timesteps[:MAX_PRECOMPUTED_STEPS], latent_size=latent_size, **inputs, **video_kwargs
    )


def predict_model_output(
    transformer: DiT,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    controlnet_block_samples: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Predict the model output in float32 from latents of B rows and the conditioning of one step.

    With a conditioning of 2B rows the result is two predictions. A learned variance is cut off: no supported scheduler
    uses it.
    """
    assert conditioning.text_keys is not None, "conditioning is precomputed"
    copies = conditioning.batch_size // len(latents)
    batch = torch.cat([latents] * copies).to(conditioning.text_keys[0].dtype)
    with transformer.cache_context("cond_uncond"):  # a cache over the steps, if there is one, keeps its state by name
        output = transformer(
            batch, conditioning=conditioning, controlnet_block_samples=controlnet_block_samples, return_dict=False
        )[0]
    return output[:, : latents.shape[1]].float().chunk(copies)


def apply_cfg(
    noise_pred_uncond: Tensor, noise_pred_text: Tensor, *, guidance_scale: float, guidance_rescale: float = 0.0
) -> Tensor:
    """Apply classifier-free guidance, and give back part of the standard deviation of noise_pred_text.

    Sources: Ho & Salimans 2022 (arXiv 2207.12598), Eq. 6, with w + 1 as the scale; Lin et al. 2024 (arXiv 2305.08891),
    Eqs. 15 and 16.
    """
    noise_cfg = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
    return rescale_noise_cfg(noise_cfg, noise_pred_text, guidance_rescale) if guidance_rescale else noise_cfg


def combine_predictions(predictions: tuple[Tensor, ...], *, guidance_scale: float, guidance_rescale: float) -> Tensor:
    """Combine the predictions of a step to one: guided if there are two."""
    if len(predictions) == 1:
        return predictions[0]
    return apply_cfg(*predictions, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale)
