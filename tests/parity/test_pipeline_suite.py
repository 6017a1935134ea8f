"""The checks of diffusers' PipelineTesterMixin and PipelineLatentTesterMixin hold for our pipelines.

Source: tests/pipelines/test_pipelines_common.py of diffusers. Left out: its checks of hubs, accelerators and xformers.
"""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers

from dianjing import TextToImagePipeline
from tests.parity.pipeline_cases import IMAGE, OTHER_IMAGE, make_case, quiet, seeded

CASES = [("text to image", "ControlNet"), ("text to image", "IP-Adapter"), ("image to image", None), ("inpaint", None)]
PROMPTS = ["a cat on the grass", "two red hearts"]
REQUIRED = {"prompt", "height", "width", "guidance_scale", "negative_prompt", "prompt_embeds", "negative_prompt_embeds"}
OPTIONAL = {"num_inference_steps", "num_images_per_prompt", "generator", "latents", "output_type", "return_dict"}
OPTIONAL |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}
NOT_INSTALLED = {"DPMSolverSDEScheduler"}  # needs torchsde
UNFIT = {"EDMEulerScheduler"}  # of models of another noise process; it is refused


@pytest.fixture(scope="module")
def folder(make_hunyuan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    make_hunyuan(with_size=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request, folder):
    return make_case(folder, *request.param)


@pytest.fixture(scope="module", params=["image to image", "inpaint"])
def image_case(request, folder):
    return make_case(folder, request.param)


def assert_near(a, b, tolerance=1e-4):
    np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0, atol=tolerance)


def test_the_arguments_are_those_of_diffusers_pipelines(case):
    parameters = inspect.signature(type(case.pipe).__call__).parameters
    assert REQUIRED | OPTIONAL | case.call.keys() <= parameters.keys()
    assert all(parameters[name].default is not inspect.Parameter.empty for name in OPTIONAL)


def test_the_components_are_those_of_the_constructor(case):
    expected = set(inspect.signature(type(case.pipe).__init__).parameters) & case.pipe.config.keys()
    components = case.pipe.components
    assert {"transformer", "vae", "scheduler", "tokenizer"} <= components.keys() <= expected | {"self"}
    assert all(getattr(case.pipe, name) is part for name, part in components.items())
    assert np.array_equal(case.images(case.make()), case.images())


def test_a_saved_pipeline_generates_the_same(case, tmp_path):
    case.pipe.save_pretrained(tmp_path)
    loaded = case.load(tmp_path)
    assert_near(case.images(loaded), case.images())
    for name in ("safety_checker", "feature_extractor"):  # optional components
        assert getattr(loaded, name) is None


def test_a_variant_is_saved_and_loaded_and_a_wrong_one_refused(case, tmp_path):
    case.pipe.save_pretrained(tmp_path, variant="fp16")
    loaded = case.load(tmp_path, variant="fp16")
    assert_near(case.images(loaded), case.images())
    with pytest.raises(ValueError, match="bf16"):
        type(case.pipe).from_pretrained(tmp_path, variant="bf16")


def test_images_of_a_batch_are_those_made_alone(case):
    arguments = {name: [case.call[name], OTHER_IMAGE] for name in ("image", "control_image") if name in case.call}
    together = case.images(prompt=PROMPTS, generator=seeded(0, 1), **arguments)
    assert len(together) == 2
    for index, prompt in enumerate(PROMPTS):
        own = {name: images[index] for name, images in arguments.items()}
        assert_near(case.images(prompt=prompt, generator=seeded(index), **own)[0], together[index])
    assert np.abs(together[0] - together[1]).max() > 1e-2


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("count", [1, 2])
def test_each_prompt_gets_its_number_of_images(case, prompts, count):
    seeds = range(len(prompts) * count)
    images = case.images(prompt=prompts, num_images_per_prompt=count, generator=seeded(*seeds))
    assert images.shape == (len(prompts) * count, 64, 64, 3)
    last = case.images(prompt=prompts[-1], generator=seeded(seeds[-1]))
    assert_near(images[-1:], last)


def test_a_tuple_holds_what_the_output_holds(case):
    assert np.array_equal(case.generate(return_dict=False)[0], case.images())


def test_guidance_changes_the_image_and_not_its_shape(case):
    guided, plain = case.images(guidance_scale=7.5), case.images(guidance_scale=1.0)
    assert guided.shape == plain.shape
    assert np.abs(guided - plain).max() > 1e-3


def test_a_callback_gets_the_tensors_that_it_names_and_its_latents_are_used(case):
    names = case.pipe._callback_tensor_inputs
    for requested in (["latents"], names):
        received = []

        def record(pipe, index, timestep, tensors, received=received):
            received.append(set(tensors))
            return tensors

        settings = {"callback_on_step_end_tensor_inputs": requested, "output_type": "latent"}
        case.generate(callback_on_step_end=record, **settings)
        assert received == [set(requested)] * case.pipe.num_timesteps

    def clear(pipe, index, timestep, tensors):
        return tensors | ({"latents": 0 * tensors["latents"]} if index == pipe.num_timesteps - 1 else {})

    assert case.images(callback_on_step_end=clear, **settings).abs().sum() == 0


def test_a_callback_changes_the_guidance_of_the_steps_that_follow(case):
    def increase(pipe, index, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    changed = case.images(num_inference_steps=3, guidance_scale=2.0, callback_on_step_end=increase)
    assert case.pipe.guidance_scale == 2.0 + case.pipe.num_timesteps
    assert np.abs(changed - case.images(num_inference_steps=3, guidance_scale=2.0)).max() > 1e-4


def test_every_type_of_output_holds_the_same_image(case):
    expected = case.images()
    assert_near(case.images(output_type="pt").permute(0, 2, 3, 1), expected)
    assert_near(np.stack([np.asarray(image) for image in case.images(output_type="pil")]) / 255, expected, 0.51 / 255)


def test_every_type_of_input_gives_the_same_image(image_case):
    pixels = np.asarray(IMAGE, np.float32) / 255
    forms = [pixels[None], torch.from_numpy(pixels).permute(2, 0, 1)[None]]
    for form in forms:
        assert_near(image_case.images(image=form), image_case.images())


def test_bfloat16_saves_loads_and_stays_near_float32(case, tmp_path):
    case.pipe.save_pretrained(tmp_path)
    low = case.load(tmp_path, dtype=torch.bfloat16)
    modules = [part for part in low.components.values() if isinstance(part, torch.nn.Module)]
    assert {module.dtype for module in modules} == {torch.bfloat16}
    difference = np.abs(case.images(low) - case.images()).mean()
    assert difference < 0.02
    low.to(torch.float32)
    assert {module.dtype for module in modules} == {torch.float32}


def test_slices_give_the_same_image(case):
    settings = {"prompt": PROMPTS, "generator": seeded(0, 1)}
    expected = case.images(**settings)
    case.pipe.enable_vae_slicing()
    case.pipe.enable_attention_slicing()
    sliced = case.images(**{**settings, "generator": seeded(0, 1)})
    case.pipe.disable_vae_slicing()
    case.pipe.disable_attention_slicing()
    assert_near(sliced, expected, 1e-3)


def test_layers_stored_in_fp8_generate(case):
    pipe = case.copy_pipe()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert np.abs(case.images(pipe) - case.images()).mean() < 0.1


def test_a_pipeline_made_from_another_and_back_generates_the_same(case):
    through = TextToImagePipeline.from_pipe(case.pipe)
    back = quiet(type(case.pipe).from_pipe(through))
    settings, expected = dict(back.config), dict(case.pipe.config)
    assert {name: settings[name] for name in expected} == expected
    assert_near(case.images(back), case.images())


def test_every_scheduler_of_diffusers_that_fits_keeps_the_shape(image_case, monkeypatch):
    pipe = image_case.pipe
    settings = {"strength": 0.5, "num_inference_steps": 5, "output_type": "latent"}
    for name in {each.name for each in KarrasDiffusionSchedulers} - NOT_INSTALLED - UNFIT:
        config = {**pipe.trained_scheduler.config, "skip_prk_steps": True}  # PNDM without its warm-up
        monkeypatch.setattr(pipe, "scheduler", getattr(diffusers, name).from_config(config))
        latents = image_case.images(**settings)
        assert latents.shape == (1, 4, 8, 8), name
        assert latents.isfinite().all(), name
