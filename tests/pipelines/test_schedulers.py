"""Every scheduler class of diffusers: it samples from a model, or is refused with the reason and those that do."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import SchedulerMixin

from dianjing import DianjingError, TextToImagePipeline, TextToVideoPipeline
from dianjing.pipelines.named_schedulers import make_scheduler
from dianjing.pipelines.schedulers import (
    DIFFUSION_SCHEDULERS,
    FLOW_ONLY_SCHEDULERS,
    FLOW_SIGMA_SCHEDULERS,
    UNFIT_SCHEDULERS,
    check_scheduler,
    prepare_extra_step_kwargs,
    scale_model_input,
    set_timesteps,
)

CPU = torch.device("cpu")
NEEDS_TORCHSDE = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}
CONSISTENCY_SCHEDULERS = {"LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"}  # for distilled models, blur others
STEPS = {
    **dict.fromkeys(CONSISTENCY_SCHEDULERS, 50),  # at most
    **dict.fromkeys(("DDPMParallelScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler"), 500),
}
STD = torch.tensor([0.3, 1.0, 3.0]).reshape(1, 3, 1, 1)  # of the known distribution, by channel
ARGUMENTS = {  # that a class has no default for
    "AmusedScheduler": {"mask_token_id": 1},
    "VQDiffusionScheduler": {"num_vec_classes": 2},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
}
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas")
# of more steps, the last is 20 times the one before: too far to extrapolate, also in diffusers
SPACED_STEPS = {("LMSDiscreteScheduler", "use_exponential_sigmas"): 100}
WITHOUT_SHIFT = "LTXEulerAncestralRFScheduler"
SETTINGS = {"CogVideoXDDIMScheduler": {"snr_shift_scale": 1.0}}


def list_scheduler_classes():
    found = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    return {name: cls for name, cls in found.items() if isinstance(cls, type)}


CLASSES = list_scheduler_classes()


def make_diffusion_scheduler():
    return diffusers.DPMSolverMultistepScheduler.from_config(
        {
            "beta_start": 0.00085,
            "beta_end": 0.03,
            "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "clip_sample": False,
        }
    )


def make_flow_scheduler():
    return diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1)


def predict_velocity(latents, timestep):
    """The best prediction for normal data of deviation STD, by linear regression on the noisy latents."""
    alphas = make_diffusion_scheduler().alphas_cumprod.double().numpy()
    alpha_bar = torch.tensor(np.interp(float(timestep), np.arange(len(alphas)), alphas), dtype=torch.float32)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    variance = alpha**2 * STD**2 + sigma**2
    return alpha * (sigma / variance) * latents - sigma * (alpha * STD**2 / variance) * latents


def predict_flow(latents, timestep):
    sigma = float(timestep) / 1000
    variance = (1 - sigma) ** 2 * STD**2 + sigma**2
    return (sigma - (1 - sigma) * STD**2) / variance * latents


@torch.no_grad()
def sample_known_distribution(scheduler, predict, *, steps):
    """Sample as `SamplingPipelineBase` does: deviations of the channels relative to STD."""
    generator = torch.Generator().manual_seed(0)
    timesteps = set_timesteps(scheduler, steps, device=CPU)
    latents = torch.randn(1, 3, 64, 64, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    kwargs = prepare_extra_step_kwargs(scheduler, generator=generator, eta=0.0)
    for timestep in timesteps:
        output = predict(scale_model_input(scheduler, latents, timestep), timestep)
        latents = scheduler.step(output, timestep, latents, **kwargs, return_dict=False)[0]
    return latents.std(dim=(0, 2, 3)) / STD.flatten()


def test_every_class_of_diffusers_is_known():
    unfit = [name for names in UNFIT_SCHEDULERS.values() for name in names]
    known = [*DIFFUSION_SCHEDULERS, *FLOW_ONLY_SCHEDULERS, *unfit]
    assert sorted(known) == sorted(set(CLASSES) - {"Scheduler"})
    assert set(FLOW_SIGMA_SCHEDULERS) < set(DIFFUSION_SCHEDULERS)


@pytest.mark.parametrize("name", sorted(set(DIFFUSION_SCHEDULERS) - NEEDS_TORCHSDE))
def test_a_scheduler_for_diffusions_samples_the_distribution_of_the_data(name):
    trained = make_diffusion_scheduler()
    scheduler = CLASSES[name].from_config(trained.config, **SETTINGS.get(name, {}))
    check_scheduler(scheduler, trained)
    ratios = sample_known_distribution(scheduler, predict_velocity, steps=STEPS.get(name, 200))
    assert (ratios - 1).abs().max() < (0.4 if name in CONSISTENCY_SCHEDULERS else 0.06), ratios


@pytest.mark.parametrize("name", [*FLOW_ONLY_SCHEDULERS, *FLOW_SIGMA_SCHEDULERS])
def test_a_scheduler_for_flow_matching_samples_the_distribution_of_the_data(name):
    trained = make_flow_scheduler()
    scheduler = CLASSES[name].from_config(trained.config)
    check_scheduler(scheduler, trained)
    ratios = sample_known_distribution(scheduler, predict_flow, steps=STEPS.get(name, 200))
    assert (ratios - 1).abs().max() < (0.4 if name in CONSISTENCY_SCHEDULERS else 0.06), ratios


def list_spaced():
    names = sorted(set(DIFFUSION_SCHEDULERS) - NEEDS_TORCHSDE)
    return [(name, spacing) for spacing in SPACINGS for name in names if spacing in CLASSES[name]().config]


@pytest.mark.parametrize(("name", "spacing"), list_spaced())
def test_karras_and_exponential_sigmas_sample_the_distribution_of_the_data(name, spacing):
    scheduler = make_scheduler(f"{name}:{spacing}", make_diffusion_scheduler())
    assert scheduler.config[spacing] is True
    ratios = sample_known_distribution(scheduler, predict_velocity, steps=SPACED_STEPS.get((name, spacing), 200))
    assert (ratios - 1).abs().max() < 0.06, ratios


@pytest.mark.parametrize("name", sorted({*FLOW_ONLY_SCHEDULERS, *FLOW_SIGMA_SCHEDULERS} - {WITHOUT_SHIFT}))
def test_a_flow_shift_moves_the_steps_and_samples_the_distribution_of_the_data(name):
    trained = make_flow_scheduler()
    shifted, plain = (make_scheduler(f"{name}{option}", trained) for option in (":flow_shift=3", ""))
    for scheduler in (shifted, plain):
        scheduler.set_timesteps(20)
    assert shifted.timesteps[8] > plain.timesteps[8] + 50
    ratios = sample_known_distribution(shifted, predict_flow, steps=50 if name in CONSISTENCY_SCHEDULERS else 200)
    assert (ratios - 1).abs().max() < (0.5 if name in CONSISTENCY_SCHEDULERS else 0.06), ratios


def test_a_flow_shift_is_refused_by_a_class_without_one():
    with pytest.raises(DianjingError, match=f"{WITHOUT_SHIFT}.*flow_shift") as refusal:
        make_scheduler(f"{WITHOUT_SHIFT}:flow_shift=3", make_flow_scheduler())
    assert refusal.value.message_id == "choice_option_unknown"


@pytest.fixture(scope="module")
def sticker():
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    yield pipe
    pipe.scheduler = own


def generate_cat(pipe):
    return pipe("一只小猫", generator=torch.Generator().manual_seed(0), output_type="pt", num_inference_steps=30).images


@pytest.fixture(scope="module")
def default_cat(sticker):
    return generate_cat(sticker)


@pytest.mark.parametrize("name", sorted(set(DIFFUSION_SCHEDULERS) - NEEDS_TORCHSDE))
def test_the_documented_swap_generates_the_same_cat(sticker, default_cat, name):
    sticker.scheduler = CLASSES[name].from_config(sticker.trained_scheduler.config, **SETTINGS.get(name, {}))
    assert (generate_cat(sticker) - default_cat).abs().mean() < 0.01  # noise differs by more than 0.2


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(DIFFUSION_SCHEDULERS) - NEEDS_TORCHSDE - {"Scheduler"}))
def test_a_scheduler_that_cannot_sample_is_refused_with_the_reason_and_those_that_can(sticker, name):
    config = {} if name in ARGUMENTS else sticker.trained_scheduler.config
    try:
        sticker.scheduler = CLASSES[name].from_config(config, **ARGUMENTS.get(name, {}))
    except (TypeError, ValueError, KeyError) as error:
        pytest.fail(f"the class itself refuses its arguments: {error}")
    with pytest.raises(DianjingError, match=rf"{name} cannot sample from this model: .*DDIMScheduler") as refusal:
        generate_cat(sticker)
    assert refusal.value.message_id == "scheduler_unfit"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda config: diffusers.DDIMScheduler(), "predict epsilon, and the model predicts v_prediction"),
        (lambda config: diffusers.EulerDiscreteScheduler.from_config(config, prediction_type="epsilon"), "epsilon"),
        (lambda config: diffusers.DDIMScheduler.from_config(config, clip_sample=True), "its clip_sample cuts off"),
        (lambda config: diffusers.UniPCMultistepScheduler.from_config(config, thresholding=True), "thresholding"),
        (lambda config: diffusers.UniPCMultistepScheduler.from_config(config, use_flow_sigmas=True), "flow matching"),
        (lambda config: diffusers.CogVideoXDDIMScheduler.from_config(config), "snr_shift_scale"),
    ],
)
def test_settings_that_destroy_the_image_are_refused(sticker, make, reason):
    sticker.scheduler = make(sticker.trained_scheduler.config)
    with pytest.raises(DianjingError, match=reason):
        generate_cat(sticker)


def test_diffusion_schedulers_are_refused_for_a_model_of_flow_matching():
    with pytest.raises(DianjingError, match=r"trained by flow matching.*FlowMatchEuler"):
        check_scheduler(make_diffusion_scheduler(), make_flow_scheduler())


def test_another_noise_schedule_is_warned_of(sticker, default_cat, warnings):
    sticker.scheduler = diffusers.DDIMScheduler.from_config(sticker.trained_scheduler.config, beta_end=0.012)
    assert (generate_cat(sticker) - default_cat).abs().mean() < 0.05
    assert any("the noise schedule of DDIMScheduler" in message for message in warnings)


def test_a_number_of_steps_that_a_scheduler_refuses_says_so(sticker):
    sticker.scheduler = diffusers.LCMScheduler.from_config(sticker.trained_scheduler.config)
    with pytest.raises(DianjingError, match="LCMScheduler refuses 60 steps"):
        sticker("a cat", num_inference_steps=60)


def test_a_scheduler_passed_at_loading_is_checked_against_the_models_own():
    pipe = TextToImagePipeline.from_pretrained("sticker", scheduler=diffusers.DDIMScheduler())
    with pytest.raises(DianjingError, match="epsilon"):
        generate_cat(pipe)
    with pytest.raises(DianjingError, match="epsilon"):
        generate_cat(TextToImagePipeline.from_pipe(pipe))


def test_a_class_of_ones_own_is_checked_by_its_parts(sticker, default_cat):
    class MyScheduler(diffusers.DDIMScheduler):
        pass

    class Strange(SchedulerMixin):
        pass

    sticker.scheduler = MyScheduler.from_config(sticker.trained_scheduler.config)
    assert (generate_cat(sticker) - default_cat).abs().mean() < 0.01
    with pytest.raises(DianjingError, match="its step needs more"):
        check_scheduler(Strange(), sticker.trained_scheduler)


def test_a_video_with_another_scheduler_has_the_same_first_frame():
    pipe = TextToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)

    def generate():
        generator = torch.Generator().manual_seed(0)
        return pipe("一只小猫向右移动", num_frames=4, generator=generator, output_type="np").frames

    default = generate()
    for cls in (diffusers.EulerDiscreteScheduler, diffusers.UniPCMultistepScheduler, diffusers.HeunDiscreteScheduler):
        pipe.scheduler = cls.from_config(pipe.trained_scheduler.config)
        assert np.abs(generate() - default).mean() < 0.02
