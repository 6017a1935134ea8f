"""From a model's scheduler and what a run file asks for to the scheduler of the result, and to what is trained."""

from typing import Any

from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import SchedulerMixin

from dianjing.train.finetune.sections import FinetuneObjective
from dianjing.train.noising import Diffusion, Flow, Noising


def scheduler_of(objective: FinetuneObjective, given: SchedulerMixin) -> SchedulerMixin:
    """The one that samples what is trained: the model's own, changed as far as the objective changes it.

    Raises: ValueError for one that cannot be changed so.
    """
    if objective.prediction == "flow":
        return DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=objective.shift
        )
    changes: dict[str, Any] = {}
    if objective.prediction != "as_trained":
        changes["prediction_type"] = objective.prediction
    if objective.terminal_snr == "zero":
        if "rescale_betas_zero_snr" not in given.config:
            raise ValueError(
                f"{type(given).__name__} knows no zero terminal SNR; take terminal_snr = 'as_trained', or give the "
                "model's folder a DDPMScheduler, DDIMScheduler or DPMSolverMultistepScheduler"
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return type(given).from_config(given.config, **changes)


def noising_of(scheduler: SchedulerMixin, *, min_snr_gamma: float | None) -> Noising:
    """What a scheduler takes away again.

    Raises: ValueError for a scheduler whose prediction cannot be trained here.
    """
    prediction = scheduler.config.prediction_type
    if prediction == "flow_prediction":
        return Flow(shift=scheduler.config.flow_shift, num_timesteps=scheduler.config.num_train_timesteps)
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the model predicts {prediction!r}; set objective.prediction to epsilon, v_prediction or flow"
        )
    return Diffusion(
        alphas_cumprod=scheduler.alphas_cumprod.clone(), prediction=prediction, min_snr_gamma=min_snr_gamma
    )
