"""Distillation of guided sampling in many steps to few steps without guidance."""

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.run import train_model
from tests.train.finetuning import build_setup, get_export_folder, overfit
from tests.train.tiny import UNINTERRUPTED

GUIDANCE_SCALE = 3.0


def make_changes(**objective):
    settings = {"caption_dropout": 0.0, "caption_dropout_t5": 0.0, "distillation_guidance_scale": GUIDANCE_SCALE}
    return {"objective": settings | objective}


@pytest.fixture
def make_setup(tmp_path, finetune_config):
    def make(**objective):
        lora = {"rank": 8, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_out"]}
        changes = make_changes(**objective) | {"model": {"lora": lora}}
        return build_setup(finetune_config(tmp_path / "run", changes=changes))

    return make


@pytest.mark.parametrize("prediction", [{}, {"prediction_type": "flow"}], ids=["diffusion", "flow"])
def test_the_teacher_samples_as_the_pipeline_with_guidance_does(make_setup, prediction):
    steps = 4
    setup = make_setup(distillation_steps=1, distillation_teacher_steps=steps, **prediction)
    task, batch = setup.task, setup.batches[0]
    noise = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(0))
    start, is_last = task.starts[[0, 0]], torch.tensor([True, True])
    end = torch.full_like(start, task.clean_timestep)
    reached = task._sample_teacher(noise, batch, start=start, end=end, is_last=is_last)

    scheduler = DPMSolverMultistepScheduler.from_config(task.scheduler.config, solver_order=2)
    pipe = TextToImagePipeline(**(task._make_components() | {"scheduler": scheduler}))
    embeds, negative = task._get_prompt_embeds(batch), task._get_prompt_embeds(task.negative_batch)
    prompts = embeds | {f"negative_{name}": each.expand_as(embeds[name]) for name, each in negative.items()}
    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    settings = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": GUIDANCE_SCALE}
    expected = pipe(**prompts, **settings, latents=noise, output_type="latent").images
    torch.testing.assert_close(reached, expected, atol=2e-4, rtol=1e-3)


def test_one_step_of_an_unguided_teacher_is_the_step_of_a_new_adapter(make_setup):
    task = make_setup(distillation_steps=3, distillation_teacher_steps=1).task
    latents = torch.randn(3, task.transformer.config.in_channels, 2, 2)
    batch = {"latents": latents}  # without captions, guidance has no effect
    batch |= {name: each.expand(3, *each.shape[1:]) for name, each in task.negative_batch.items()}
    noise = {"latents": torch.randn_like(latents), "timestep": torch.tensor([990, 400, 10])}
    with torch.no_grad():
        assert task._compute_errors(batch, noise).max() < 1e-9
    task.guidance_scale, task.config = (
        1.0,
        task.config.model_copy(
            update={"objective": task.config.objective.model_copy(update={"distillation_teacher_steps": 4})}
        ),
    )
    with torch.no_grad():
        assert task._compute_errors(batch, noise).min() > 1e-6


@pytest.mark.parametrize(
    ("prediction", "tolerance"),
    [({}, 2e-4), ({"prediction_type": "flow"}, 2e-3)],  # the scheduler of a flow rounds its timesteps, not its levels
    ids=["diffusion", "flow"],
)
def test_the_student_steps_as_the_pipeline_does_without_guidance(make_setup, prediction, tolerance):
    steps = 3
    setup = make_setup(distillation_steps=steps, distillation_own_steps=True, **prediction)
    task, caption = setup.task, {name: each[:1] for name, each in setup.batches[0].items()}
    with torch.no_grad():
        for name, weight in task.transformer.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    batch = {name: each.expand(steps, *each.shape[1:]) for name, each in caption.items()}
    noise = torch.randn(caption["latents"].shape, generator=torch.Generator().manual_seed(0))
    reached = task._sample_student(noise.expand(steps, -1, -1, -1), batch, torch.arange(steps))

    expected = [noise]
    pipe = TextToImagePipeline(**task._make_components())
    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    pipe(
        **task._get_prompt_embeds(caption),
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=1.0,
        latents=noise,
        output_type="latent",
        callback_on_step_end=lambda pipe, step, timestep, tensors: expected.append(tensors["latents"]) or tensors,
    )
    torch.testing.assert_close(reached, torch.cat(expected[:steps]), atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("own_steps", [False, True])
def test_few_steps_come_near_the_teacher(make_setup, own_steps):
    losses = overfit(make_setup(distillation_steps=2, distillation_own_steps=own_steps), steps=60, learning_rate=1e-2)
    assert losses[-1] < losses[0] / 3


def test_the_export_draws_in_few_steps_without_guidance(tmp_path, finetune_config, model):
    config = finetune_config(tmp_path / "run", changes=make_changes(distillation_steps=3))
    train_model(config, **UNINTERRUPTED)
    folder = get_export_folder(config)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["solver_order"], scheduler["timestep_spacing"]) == (1, "trailing")
    assert "3 steps and guidance scale 1" in (folder / "README.md").read_text()
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(folder)
    image = pipe("a cat", height=16, width=16, output_type="np").images
    assert image.shape == (1, 16, 16, 3)
    assert (pipe.sampling_params.num_inference_steps, pipe.sampling_params.guidance_scale) == (3, 1.0)
    assert (pipe.scheduler.config.solver_order, pipe.scheduler.config.timestep_spacing) == (1, "trailing")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"trainable": "all"}}, "which trains an adapter for images"),
        ({"objective": {"prior_preservation": 1.0}}, "exclude each other"),
    ],
)
def test_what_distillation_does_not_go_with_is_refused(tmp_path, finetune_config, changes, reason):
    objective = {"distillation_steps": 4, **changes.get("objective", {})}
    with pytest.raises(ValueError, match=reason):
        finetune_config(tmp_path / "run", changes=changes | {"objective": objective})
