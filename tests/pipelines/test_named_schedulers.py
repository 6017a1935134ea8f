"""Schedulers by name and options: the one that diffusers' class makes, for every class that fits the model."""

import pytest
import torch

from dianjing import DianjingError, TextToImagePipeline
from dianjing.pipelines.media.metadata import get_sampling_metadata
from dianjing.pipelines.named_schedulers import describe_scheduler, make_scheduler, use_scheduler
from dianjing.pipelines.schedulers import DIFFUSION_SCHEDULERS

NEEDS_TORCHSDE = "DPMSolverSDEScheduler"


def test_every_scheduler_for_diffusions_is_made_by_its_name(loaded):
    trained = loaded.trained_scheduler
    for name in sorted({*DIFFUSION_SCHEDULERS} - {NEEDS_TORCHSDE}):
        scheduler = make_scheduler(name, trained)
        assert type(scheduler).__name__ == name
        assert torch.allclose(torch.as_tensor(scheduler.alphas_cumprod).float(), trained.alphas_cumprod)
        short = name.removesuffix("Scheduler").lower()
        assert dict(make_scheduler(short, trained).config) == dict(scheduler.config)


@pytest.mark.parametrize(
    "text",
    [
        "EulerDiscreteScheduler:use_karras_sigmas=true",
        "DPMSolverMultistepScheduler:solver_order=3,use_exponential_sigmas=true",
        "DDIMScheduler:timestep_spacing=trailing",
        "HeunDiscreteScheduler",
    ],
)
def test_the_metadata_of_an_image_names_the_scheduler_that_makes_it_again(pipe, generate_latents, text):
    default = generate_latents(pipe, num_inference_steps=6)
    with use_scheduler(pipe, text):
        first = generate_latents(pipe, num_inference_steps=6)
        settings = get_sampling_metadata(pipe)
    assert settings["scheduler"] == text
    assert torch.equal(generate_latents(pipe, num_inference_steps=6), default), "the model's own is back"
    by_class = make_scheduler(text, pipe.trained_scheduler)
    pipe.scheduler = type(by_class).from_config(by_class.config)
    assert torch.equal(generate_latents(pipe, num_inference_steps=6), first)
    assert not torch.equal(first, default)


def test_the_models_own_scheduler_is_named_without_options(loaded):
    trained = loaded.trained_scheduler
    assert describe_scheduler(loaded.scheduler, trained) == type(trained).__name__
    assert dict(make_scheduler(type(trained).__name__, trained).config) == dict(trained.config)


@pytest.mark.parametrize(
    ("text", "message_id"),
    [
        ("Euler", "value_not_allowed"),
        ("EDMEulerScheduler", "scheduler_unfit"),
        ("DDIMInverse", "scheduler_unfit"),
        ("FlowMatchEulerDiscrete", "value_not_allowed"),
        ("DDIM:use_karras_sigmas", "choice_option_unknown"),
        ("DDIM:beta_end=0.012", "choice_option_unknown"),
        ("EulerDiscrete:use_karras_sigmas=yes", "choice_option_type"),
        ("EulerDiscrete:use_karras_sigmas,use_exponential_sigmas", "scheduler_options_refused"),
        ("DPMSolverMultistep:algorithm_type=euler", "scheduler_options_refused"),
        ("DDIM:", "choice_malformed"),
        ("", "choice_malformed"),
        ("DDIM:a=1,a=2", "choice_malformed"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(loaded, text, message_id):
    with pytest.raises(DianjingError) as raised:
        make_scheduler(text, loaded.trained_scheduler)
    assert raised.value.message_id == message_id


def test_the_sticker_draws_its_cat_with_other_sigmas():
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)

    def generate(text):
        with use_scheduler(pipe, text):
            generator = torch.Generator().manual_seed(0)
            return pipe("一只小猫", generator=generator, output_type="pt", num_inference_steps=30).images

    default = generate(None)
    for text in ("EulerDiscrete:use_karras_sigmas", "DPMSolverMultistep:use_exponential_sigmas"):
        assert (generate(text) - default).abs().mean() < 0.02  # noise differs by more than 0.2
