"""The half of a pipeline that draws: from noise to latents, with guidance, callbacks and a bar.

B batch, S steps; latents are B C Y X of pictures and B C F Y X of films.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from dianjing.dit import Condition
from dianjing.pipelines import inputs, request
from dianjing.pipelines.encoding import PromptPipeline
from dianjing.pipelines.prediction import combine
from dianjing.pipelines.text import Text

LookAhead = Callable[..., Condition]  # (timesteps, text, *, guided) -> what the latents do not change
CallBack = Callable[[int, Tensor, Tensor, Text], tuple[Tensor, Text]]
Predict = Callable[[Tensor, Condition], tuple[Tensor, ...]]


class DenoisingPipeline(PromptPipeline):
    """For pipelines over text encoders, transformer, scheduler and vae."""

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents", "prompt_embeds", "negative_prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds_2",
    ]  # fmt: skip

    def _set_run(self, num_inference_steps: int | None, guidance_scale: float | None, guidance_rescale: float) -> int:
        """Check and keep what a call is run with, the defaults where None; return the number of steps."""
        steps = request.check_steps(inputs.or_default(num_inference_steps, self.config.default_num_inference_steps))
        scale = request.check_guidance(inputs.or_default(guidance_scale, self.config.default_guidance_scale))
        self._guidance_scale, self._guidance_rescale = scale, inputs.check_rescale(guidance_rescale)
        self._interrupt = False
        return steps

    def _listener(self, callback: inputs.CallbackOnStepEnd | None, names: Sequence[str]) -> CallBack | None:
        """What is called after each step, its tensor names checked."""
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        names = inputs.check_callback_inputs(names, self._callback_tensor_inputs)
        return None if callback is None else partial(self._call_back, callback, names)

    def _denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Text,
        *,
        options: Mapping[str, Any],
        call_back: CallBack | None,
        look_ahead: LookAhead,
        predict: Predict,
    ) -> Tensor:
        """From noise to latents (B, C, ...), in float32 between the steps.

        look_ahead prepares as many of the timesteps as it likes; predict is of one step, guided or not.
        """
        self._num_timesteps = len(timesteps)
        ahead: Condition | None = None
        first = 0  # the step that `ahead` begins with
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self._interrupt:
                    break
                self._current_timestep = timestep
                guided = self.do_classifier_free_guidance and text.negative_prompt_embeds is not None
                rows = text.batch_size * (2 if guided else 1)
                if ahead is None or ahead.batch_size != rows or step - first == ahead.num_steps:
                    ahead, first = look_ahead(timesteps[step:], text, guided=guided), step
                scaled = self.scheduler.scale_model_input(latents, timestep)
                predictions = predict(scaled, ahead.at(step - first))
                prediction = combine(predictions, scale=self.guidance_scale, rescale=self.guidance_rescale)
                latents = self.scheduler.step(prediction, timestep, latents, **options, return_dict=False)[0]
                if call_back is not None:
                    latents, new_text = call_back(step, timestep, latents, text)
                    text, ahead = new_text, ahead if new_text is text else None
                progress_bar.update()
        self._current_timestep = None
        return latents

    def _call_back(
        self,
        callback: inputs.CallbackOnStepEnd,
        names: list[str],
        step: int,
        timestep: Tensor,
        latents: Tensor,
        text: Text,
    ) -> tuple[Tensor, Text]:
        """Show the user the named tensors, and take what comes back: the same `Text` where it was left alone."""
        shown = {name: latents if name == "latents" else getattr(text, name) for name in names}
        seen = {name: tensor._version for name, tensor in shown.items() if tensor is not None}
        returned = callback(self, step, timestep, dict(shown)) or {}
        changed = {
            name: tensor
            for name, tensor in returned.items()
            if name in shown and (tensor is not shown[name] or (tensor is not None and tensor._version != seen[name]))
        }
        latents = changed.pop("latents", latents)
        return latents, replace(text, **changed) if changed else text
