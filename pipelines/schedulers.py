"""Schedulers: which of diffusers' sample from a model, and why the others cannot.

A model predicts one quantity along one noise process: noise, velocity or x0 along a diffusion, or the direction of a
rectified flow. A scheduler samples from it if it steps along that process by that prediction.
"""

import inspect
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from torch import Tensor

from dianjing.errors import DianjingError, Message

logger = logging.get_logger(__name__)

FLOW_PREDICTION = "flow_prediction"
# for a diffusion; `tests/pipelines/test_schedulers.py` samples a known distribution by every scheduler of diffusers
DIFFUSION_SCHEDULERS = (
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
FLOW_ONLY_SCHEDULERS = (
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
)
FLOW_SIGMA_SCHEDULERS = (  # with use_flow_sigmas=True
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
UNFIT_SCHEDULERS: Mapping[Message, tuple[str, ...]] = {  # reason -> classes
    Message("scheduler_reason_inverse"): ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"),
    Message("scheduler_reason_tokens"): (
        "AmusedScheduler",
        "BlockRefinementScheduler",
        "DiscreteDDIMScheduler",
        "EntropyBoundScheduler",
        "VQDiffusionScheduler",
    ),
    Message("scheduler_reason_own_process"): (
        "CMStochasticIterativeScheduler",
        "CosineDPMSolverMultistepScheduler",
        "DDPMWuerstchenScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "IPNDMScheduler",
        "KarrasVeScheduler",
        "MiniMaxH3Scheduler",
        "SCMScheduler",
        "ScoreSdeVeScheduler",
        "UnCLIPScheduler",
    ),
    Message("scheduler_reason_other_inputs"): (
        "CogVideoXDPMScheduler",
        "HeliosDMDScheduler",
        "HeliosScheduler",
        "PiflowScheduler",
        "RFD4ProteinaScheduler",
        "RePaintScheduler",
    ),
}
FITTING_SETTINGS: Mapping[str, tuple[object, Message]] = {  # name -> the value that fits, and why others do not
    "clip_sample": (False, Message("scheduler_reason_clip_sample")),
    "thresholding": (False, Message("scheduler_reason_thresholding")),
    "snr_shift_scale": (1.0, Message("scheduler_reason_snr_shift_scale")),
}
STEP_INPUTS = ("model_output", "timestep", "sample")
# differences of alphas_cumprod: of rounding, and of what changes little in an image, such as zero terminal SNR
SAME_ALPHAS, SIMILAR_ALPHAS = 1e-4, 0.01


def load_adapter_scheduler(adapter: str | PathLike) -> Any:
    """Load the scheduler in an adapter's folder, of an adapter that changed the prediction type; None without one.

    Raises: DianjingError for a scheduler that diffusers does not have.
    """
    folder = Path(adapter) / "scheduler"
    if not (folder / "scheduler_config.json").is_file():
        return None
    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8")).get("_class_name")
    scheduler_class: Any = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)
    if not is_scheduler:
        raise DianjingError("scheduler_unknown", folder=folder, scheduler=name)
    return scheduler_class.from_pretrained(folder)


def get_prediction_type(scheduler: SchedulerMixin) -> str:
    """Return what a scheduler takes its model to predict: "epsilon", "v_prediction", "sample" or "flow_prediction"."""
    if scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return FLOW_PREDICTION
    return str(scheduler.config.get("prediction_type", "epsilon"))


def get_fitting_schedulers(trained: SchedulerMixin) -> list[str]:
    """Classes of diffusers that sample from the model whose own scheduler is `trained`."""
    if get_prediction_type(trained) == FLOW_PREDICTION:
        return sorted((*FLOW_ONLY_SCHEDULERS, *FLOW_SIGMA_SCHEDULERS))
    return list(DIFFUSION_SCHEDULERS)


def check_scheduler(scheduler: Any, trained: SchedulerMixin | None) -> None:
    """Check that a scheduler samples from the model whose own scheduler is `trained`; None if that is not known.

    A noise schedule other than the model's own is only warned of. Raises: DianjingError with the reason and the
    schedulers that fit.
    """
    if scheduler is trained:
        return
    reason = _find_reason(scheduler, trained)
    if reason is not None:
        fitting = list(DIFFUSION_SCHEDULERS) if trained is None else get_fitting_schedulers(trained)
        raise DianjingError("scheduler_unfit", scheduler=type(scheduler).__name__, reason=reason, fitting=fitting)
    if trained is not None and not _has_equal_noise_schedule(scheduler, trained, tolerance=SIMILAR_ALPHAS):
        logger.warning(
            f"the noise schedule of {type(scheduler).__name__} is not the one that the model was trained with; "
            f"{type(scheduler).__name__}.from_config(pipe.trained_scheduler.config) keeps it"
        )


def _find_reason(scheduler: Any, trained: SchedulerMixin | None) -> Message | None:
    """Why a scheduler cannot sample from a model; None if it can."""
    names = {cls.__name__ for cls in type(scheduler).__mro__}
    for reason, classes in UNFIT_SCHEDULERS.items():
        if names.intersection(classes):
            return reason
    if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "config"):
        return Message("scheduler_reason_other_inputs")
    parameters = inspect.signature(scheduler.step).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    if not {each.name for each in required} <= set(STEP_INPUTS):
        return Message("scheduler_reason_other_inputs")
    if trained is not None:
        assumed, expected = get_prediction_type(scheduler), get_prediction_type(trained)
        if assumed != expected:
            if assumed == FLOW_PREDICTION:
                return Message("scheduler_reason_flow")
            if expected == FLOW_PREDICTION:
                return Message("scheduler_reason_no_flow")
            return Message("scheduler_reason_prediction", assumed=assumed, expected=expected)
    used_settings = inspect.signature(type(scheduler)).parameters  # a configuration holds those of other classes too
    for name, (fitting, reason) in FITTING_SETTINGS.items():
        if name in used_settings and scheduler.config.get(name, fitting) != fitting:
            return reason
    return None


def _has_equal_noise_schedule(scheduler: Any, trained: SchedulerMixin, *, tolerance: float) -> bool:
    alphas, expected = (getattr(each, "alphas_cumprod", None) for each in (scheduler, trained))
    if alphas is None or expected is None:
        return True
    return alphas.shape == expected.shape and float((alphas.cpu() - expected.cpu()).abs().max()) < tolerance


def has_equal_process(scheduler: SchedulerMixin, trained: SchedulerMixin | None) -> bool:
    """True if two schedulers are for the same prediction and noise schedule, so that one may take the other's place."""
    if trained is None:
        return False
    is_equal = get_prediction_type(scheduler) == get_prediction_type(trained)
    return is_equal and _has_equal_noise_schedule(scheduler, trained, tolerance=SAME_ALPHAS)


def set_timesteps(scheduler: Any, num_inference_steps: int, *, device: torch.device) -> Tensor:
    """Set a scheduler to the start of a run and return its timesteps (S,); S is larger for higher-order schedulers.

    Raises: DianjingError for a number of steps that the scheduler refuses.
    """
    try:
        scheduler.set_timesteps(num_inference_steps, device=device)
    except ValueError as error:
        raise DianjingError(
            "scheduler_steps_refused", scheduler=type(scheduler).__name__, count=num_inference_steps, reason=str(error)
        ) from error
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it searches for the first timestep, which waits for the device
    return scheduler.timesteps


def prepare_extra_step_kwargs(scheduler: Any, **candidate_kwargs: Any) -> dict[str, Any]:
    """Select the candidates, such as eta and generator, that the scheduler's `step` takes."""
    parameters = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in candidate_kwargs.items() if name in parameters}


def scale_model_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Scale latents as the scheduler wants the model to see them; flow matching leaves them as they are."""
    has_scale = hasattr(scheduler, "scale_model_input")
    return scheduler.scale_model_input(latents, timestep) if has_scale else latents
