"""Sampling: the way of every prompt through a pipeline, from checked arguments to decoded images or frames.

`SamplingPipelineBase` takes it in seven steps: 1 check, 2 encode, 3 conditioning, 4 timesteps, 5 latents, 6 denoise,
7 decode. B batch; latents are B C Y X or B C F Y X.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from diffusers.guiders import BaseGuidance
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from dianjing.dit import Conditioning
from dianjing.pipelines import validation
from dianjing.pipelines.default_adapter import DefaultAdapter, DefaultAdapterMixin
from dianjing.pipelines.denoiser import Denoiser, PrecomputedConditioning, SamplingStep, combine_predictions
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.guiders import changes_model, predict_with_guider, resolve_guider
from dianjing.pipelines.hooks import CallbackOnStepEnd, SamplingHooks, StepCallback
from dianjing.pipelines.image_start import ImageStart
from dianjing.pipelines.prompt_embeds import PromptPipelineBase, TruncatedText
from dianjing.pipelines.schedulers import check_scheduler, prepare_extra_step_kwargs, scale_model_input, set_timesteps
from dianjing.pipelines.tensor_checks import check_computed, check_latents

Generators = Generator | Sequence[Generator] | None
SampledT = TypeVar("SampledT")  # latents, or what else a pipeline samples
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Settings that a call is run with, defaults filled in.

    default_adapter: the one that it is drawn with; a call that gives neither steps nor a guidance scale makes it again.
    """

    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    eta: float = 0.0
    guider: BaseGuidance | None = None
    default_adapter: DefaultAdapter | None = None


@dataclass(frozen=True, kw_only=True)
class SamplingCall:
    """A checked call of a pipeline.

    encoded: prompt embeddings of the call's arguments. latents: noise of the shape `latent_shape`, or None for noise
    from `generator`.
    """

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None
    encoded: PromptEmbeds
    num_per_prompt: int
    params: SamplingParams
    latent_shape: tuple[int, ...]
    latents: Tensor | None
    generator: Generators
    step_callback: StepCallback | None


def sample_noise(shape: Sequence[int], generator: Generators, *, device: torch.device) -> Tensor:
    """Sample normal noise of `shape` (B, ...) in float32.

    With a list of generators, one for each row, a seed gives the same row whatever batch it is in and whatever the
    dtype of the model.
    """
    batch_size, *rest = shape
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * batch_size
    rows = [randn_tensor((1, *rest), generator=one, device=device, dtype=torch.float32) for one in generators]
    return torch.cat(rows)


class SamplingPipelineBase(SamplingHooks, PromptPipelineBase, DefaultAdapterMixin):
    """Base of pipelines over text encoders, transformer, scheduler and VAE: the sampling loop.

    `sampling_params` holds the settings of the last call, `truncated` the ends of its prompts that were cut off.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    vae_scale_factor: int
    sampling_params: SamplingParams | None = None
    _call_device: torch.device | None = None  # inside a call
    truncated: list[TruncatedText] = []  # noqa: RUF012 (never changed in place)

    @property
    def default_size_px(self) -> int:
        """Side of the square, in pixels, that the model was trained on."""
        return self.transformer.config.sample_size * self.vae_scale_factor

    @property
    def size_multiple_px(self) -> int:
        """The number of pixels whose multiples are the sides that the model generates."""
        return self.transformer.config.patch_size * self.vae_scale_factor

    def _check_params(
        self,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        *,
        guidance_rescale: float = 0.0,
        eta: float = 0.0,
        guider: BaseGuidance | str | None = None,
        default_guidance_scale: float | None = None,
    ) -> SamplingParams:
        """Check the settings of a call, with those of an active adapter or of the model for None, and keep them.

        guider: a guider of diffusers, or a guidance mode, see `make_guider`. default_guidance_scale: in place of the
        model's for images. Raises: DianjingError also for a scheduler that cannot sample from this model.
        """
        check_scheduler(self.scheduler, self.trained_scheduler)
        default_steps = self.config.default_num_inference_steps
        default_guidance_scale = validation.coalesce(default_guidance_scale, self.config.default_guidance_scale)
        adapter_sampling = self.get_adapter_sampling()
        if adapter_sampling is not None:
            default_steps = adapter_sampling.num_inference_steps
            if guider is None:  # one guides by the scale of the model
                default_guidance_scale = adapter_sampling.guidance_scale
        steps = validation.coalesce(num_inference_steps, default_steps)
        self._guider, scale, rescale = resolve_guider(
            guider,
            guidance_scale,
            default_scale=default_guidance_scale,
            guidance_rescale=guidance_rescale,
            num_layers=len(self.transformer.blocks),
        )
        self.sampling_params = SamplingParams(
            num_inference_steps=validation.check_num_inference_steps(steps),
            guidance_scale=scale,
            guidance_rescale=rescale,
            eta=validation.check_number(eta, "eta", low=0, high=1),
            guider=self._guider,
            default_adapter=self._merged_adapter,
        )
        self._guidance_scale = self.sampling_params.guidance_scale
        self._guidance_rescale = self.sampling_params.guidance_rescale
        self._interrupt = False
        return self.sampling_params

    def _make_call(
        self,
        params: SamplingParams,
        *,
        latent_shape: tuple[int, ...],
        latents: Tensor | None,
        generator: Generators,
        callback: CallbackOnStepEnd | None,
        callback_tensor_inputs: Sequence[str],
        prompt: str | list[str] | None,
        **fields: Any,
    ) -> SamplingCall:
        """Check noise, generators and callback of a call, and collect it with its prompts in words that are known."""
        check_latents(latents, latent_shape)
        validation.check_generator(generator, latent_shape[0])
        self.warn_about_unknown_words(prompt)
        return SamplingCall(
            prompt=self.normalize_prompts(prompt),
            params=params,
            latent_shape=latent_shape,
            latents=latents,
            generator=generator,
            step_callback=self._make_step_callback(callback, callback_tensor_inputs),
            **fields,
        )

    def _run(
        self,
        call: SamplingCall,
        sample: Callable[[PromptEmbeds, Tensor], SampledT],
        decode: Callable[[SampledT], OutputT],
    ) -> OutputT:
        """Take a call through the steps after 1 (check), which made it.

        sample: from prompt embeddings and noise to latents, by one or more runs of `_sample`. decode: to the output.
        """
        with self._keep_execution_device():
            return self._run_steps(call, sample, decode)

    @property
    def _execution_device(self) -> torch.device:  # type: ignore[override]
        """The device that models run on; a call looks for it once, as diffusers looks at every module for it."""
        return super()._execution_device if self._call_device is None else self._call_device

    @contextmanager
    def _keep_execution_device(self) -> Iterator[None]:
        """Let the execution device be what it is now, inside the block."""
        outer, self._call_device = self._call_device, self._execution_device
        try:
            yield
        finally:
            self._call_device = outer

    def _run_steps(
        self,
        call: SamplingCall,
        sample: Callable[[PromptEmbeds, Tensor], SampledT],
        decode: Callable[[SampledT], OutputT],
    ) -> OutputT:
        # 2. Encode
        negative_prompt = call.negative_prompt if self.do_classifier_free_guidance else None
        self.truncated = self.find_truncated(call.prompt, negative_prompt)
        embeds = self._encode_prompts(
            call.prompt, call.negative_prompt, call.encoded, num_per_prompt=call.num_per_prompt
        )
        # 3. to 6., in `_sample`: once for images, once for each window of a video
        noise = call.latents
        if noise is None:
            noise = sample_noise(call.latent_shape, call.generator, device=self._execution_device)
        noise = noise.to(self._execution_device, torch.float32)
        try:
            sampled = sample(embeds, noise)
        finally:
            self._current_timestep = None
        # 7. Decode
        output = decode(sampled)
        self.maybe_free_model_hooks()
        return output

    def _sample(
        self,
        noise: Tensor,
        embeds: PromptEmbeds,
        denoiser: Denoiser,
        call: SamplingCall,
        *,
        num_inference_steps: int | None = None,
        start: ImageStart | None = None,
    ) -> Tensor:
        """Sample latents from noise (B, C, ...) in one run, in float32 between the steps.

        start: the images that sampling starts from; None for noise alone.
        Raises: DianjingError for latents that are not finite.
        """
        # 3. Conditioning: computed for many timesteps at once, and anew when the prompts or the guidance change
        conditioning = PrecomputedConditioning(denoiser)
        # 4. Timesteps
        num_inference_steps = num_inference_steps or call.params.num_inference_steps
        timesteps = set_timesteps(self.scheduler, num_inference_steps, device=self._execution_device)
        if start is not None:
            timesteps = start.select_timesteps(self.scheduler, num_inference_steps)
            num_inference_steps = start.count_steps(num_inference_steps)
        self._num_timesteps = len(timesteps)
        # 5. Latents
        if start is None:
            latents = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)  # flow matching has none
        else:
            latents = start.make_latents(self.scheduler, noise, timesteps)
        # 6. Denoise
        step_kwargs = prepare_extra_step_kwargs(self.scheduler, eta=call.params.eta, generator=call.generator)
        last_embeds, was_guided = None, False
        order = getattr(self.scheduler, "order", 1)  # of higher order, a scheduler takes several timesteps for a step
        cache = self.transformer.without_cache() if changes_model(self._guider) else nullcontext()
        with cache, self.progress_bar(total=num_inference_steps) as progress_bar:
            for index, timestep in enumerate(timesteps):
                if self._interrupt:
                    break
                self._current_timestep = timestep
                guided = self.do_classifier_free_guidance and embeds.negative_prompt_embeds is not None
                if embeds is not last_embeds or guided != was_guided:
                    self.transformer.reset_cache()
                    last_embeds, was_guided = embeds, guided
                step = SamplingStep(
                    index=index,
                    num_steps=len(timesteps),
                    timestep=timestep,
                    latents=scale_model_input(self.scheduler, latents, timestep),
                )
                model_output = self._predict(
                    denoiser, step, embeds, conditioning.get(index, timesteps, embeds, guided=guided)
                )
                latents = self.scheduler.step(model_output, timestep, latents, **step_kwargs, return_dict=False)[0]
                if start is not None:
                    latents = start.keep_unmasked(self.scheduler, latents, noise, timesteps[index + 1 :])
                if call.step_callback is not None:
                    latents, embeds = call.step_callback(index, timestep, latents, embeds)
                for observer in self._step_observers:
                    observer(replace(step, latents=latents))
                is_step_done = (index + 1) % order == 0 and index + 1 > len(timesteps) - num_inference_steps * order
                if is_step_done or index + 1 == len(timesteps):
                    progress_bar.update()
        check_computed(latents, self.transformer)
        return latents

    def _predict(
        self, denoiser: Denoiser, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning
    ) -> Tensor:
        """Predict the model output of a step, guided by the guider of the call or by classifier-free guidance."""
        if self._guider is not None:
            return predict_with_guider(self._guider, self.transformer, denoiser, step, embeds, conditioning)
        predictions = denoiser.predict(step, embeds, conditioning)
        return combine_predictions(
            predictions, guidance_scale=self._guidance_scale, guidance_rescale=self._guidance_rescale
        )
