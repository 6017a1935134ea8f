"""Public hooks of the sampling pipelines: who watches a run or steers it needs no private name.

`observe_steps` watches all steps; `callback_on_step_end` of a call may change tensors, as in diffusers; `interrupt` and
`guidance_scale` may be set while a call runs. B batch; latents are B C Y X or B C F Y X.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from dianjing.pipelines import validation
from dianjing.pipelines.denoiser import SamplingStep
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.guiders import uses_negative_prompts

CallbackOnStepEnd: TypeAlias = Callable[[Any, int, Any, dict], dict] | PipelineCallback | MultiPipelineCallbacks
StepCallback = Callable[[int, Tensor, Tensor, PromptEmbeds], tuple[Tensor, PromptEmbeds]]
StepObserver = Callable[[SamplingStep], object]


class SamplingHooks:
    """State of a call that may be watched and set from outside, and the callbacks of its steps."""

    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "prompt_embeds_2",
        "negative_prompt_embeds_2",
    ]
    _execution_device: torch.device
    _step_observers: tuple[StepObserver, ...] = ()
    _guidance_scale = 1.0
    _guidance_rescale = 0.0
    _guider: Any = None  # a guider of diffusers, which takes the place of classifier-free guidance
    _num_timesteps = 0
    _current_timestep: Tensor | None = None
    _interrupt = False

    @contextmanager
    def observe_steps(self, observer: StepObserver) -> Iterator[None]:
        """Call `observer(step)` after every step of every run inside the block; what it raises ends the call."""
        self._step_observers = (*self._step_observers, observer)
        try:
            yield
        finally:
            self._step_observers = tuple(other for other in self._step_observers if other is not observer)

    @property
    def interrupt(self) -> bool:
        """True to end the call after the step that is being computed; a new call sets it to False."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @property
    def guidance_scale(self) -> float:
        """Scale of the guidance, of the call that is running or the last one."""
        return self._guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._guidance_scale = value
        if self._guider is not None:
            self._guider.guidance_scale = value

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1 if self._guider is None else uses_negative_prompts(self._guider)

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps of the last run; a video takes several runs."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        return self._current_timestep

    @property
    def execution_device(self) -> torch.device:
        """Device that the models run on, also with offloading."""
        return self._execution_device

    def _make_step_callback(
        self, callback: CallbackOnStepEnd | None, tensor_names: Sequence[str]
    ) -> StepCallback | None:
        """Check the tensor names of `callback_on_step_end`, and bind both."""
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensor_names = callback.tensor_inputs
        tensor_names = validation.check_callback_inputs(tensor_names, self._callback_tensor_inputs)
        return None if callback is None else partial(self._run_step_callback, callback, tensor_names)

    def _run_step_callback(
        self,
        callback: CallbackOnStepEnd,
        tensor_names: list[str],
        index: int,
        timestep: Tensor,
        latents: Tensor,
        embeds: PromptEmbeds,
    ) -> tuple[Tensor, PromptEmbeds]:
        """Call the user's callback and apply what it changed, in place or not; else `embeds` is the same object."""
        tensors = {name: latents if name == "latents" else getattr(embeds, name) for name in tensor_names}
        versions = {name: tensor._version for name, tensor in tensors.items() if tensor is not None}
        returned = callback(self, index, timestep, dict(tensors)) or {}
        changed = {
            name: tensor
            for name, tensor in returned.items()
            if name in tensors
            and (tensor is not tensors[name] or (tensor is not None and tensor._version != versions[name]))
        }
        latents = changed.pop("latents", latents)
        return latents, replace(embeds, **changed) if changed else embeds
