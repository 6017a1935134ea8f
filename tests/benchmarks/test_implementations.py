"""Both implementations hold the same weights, and their loops are equal to the pipelines that they represent."""

import copy

import pytest
import torch
from diffusers import HunyuanDiTPipeline

from benchmarks import model_sizes
from benchmarks.comparison import max_relative_difference, relative_l2_distance
from benchmarks.implementations import (
    GUIDANCE_SCALE,
    VAE_SCALE_FACTOR,
    make_denoising_inputs,
    make_dianjing_implementation,
    make_diffusers_implementation,
)
from benchmarks.model_sizes import ModelSize, make_dianjing_model, make_diffusers_model
from dianjing import TextToImagePipeline

TOLERANCE = 1e-4  # float32, relative to the output's scale
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def get_last(run):
    *_, latents = run
    return latents


def make_both(size):
    diffusers_model, inputs = make_diffusers_model(size), make_denoising_inputs(size, device=CPU)
    return make_diffusers_implementation("diffusers", diffusers_model, inputs), make_dianjing_implementation(
        "dianjing", make_dianjing_model(diffusers_model), inputs
    )


def test_both_models_hold_the_same_weights(tiny):
    diffusers_model = make_diffusers_model(tiny)
    state = make_dianjing_model(diffusers_model).state_dict()
    assert state.keys() == diffusers_model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in diffusers_model.state_dict().items())


def test_both_implementations_agree_in_float32(tiny):
    diffusers_model, dianjing_implementation = make_both(tiny)
    assert max_relative_difference(dianjing_implementation.predict(), diffusers_model.predict()) <= TOLERANCE
    assert (
        relative_l2_distance(get_last(dianjing_implementation.denoise()), get_last(diffusers_model.denoise()))
        <= TOLERANCE
    )


def test_a_weight_that_is_not_shared_changes_the_output(tiny):
    diffusers_model, inputs = make_diffusers_model(tiny), make_denoising_inputs(tiny, device=CPU)
    stranger = copy.deepcopy(diffusers_model)
    stranger.blocks[-1].norm2.weight.mul_(1.1)
    dianjing_implementation = make_dianjing_implementation("dianjing", make_dianjing_model(stranger), inputs)
    assert (
        max_relative_difference(
            dianjing_implementation.predict(),
            make_diffusers_implementation("diffusers", diffusers_model, inputs).predict(),
        )
        > 10 * TOLERANCE
    )


def test_fused_projections_are_lossless(tiny):
    diffusers_model, inputs = make_diffusers_model(tiny), make_denoising_inputs(tiny, device=CPU)
    expected = make_diffusers_implementation("stock", diffusers_model, inputs).predict()
    diffusers_model.fuse_qkv_projections()
    assert (
        max_relative_difference(make_diffusers_implementation("fused", diffusers_model, inputs).predict(), expected)
        <= TOLERANCE
    )


@pytest.fixture
def published(make_hunyuan):
    """diffusers' tiny pipeline, and its transformer as a size."""
    pipe = make_hunyuan()
    known = {name: pipe.transformer.config[name] for name in model_sizes._get_shared_config_keys()}
    size = ModelSize(
        name="sticker",
        weights="random",
        config=known,
        latent_size=8,
        num_inference_steps=3,
        min_pairs=6,
        state_dict=pipe.transformer.state_dict(),
    )
    return pipe, size


def pipeline_latents(pipe, inputs):
    pipe.set_progress_bar_config(disable=True)
    side_px = VAE_SCALE_FACTOR * inputs.latents.shape[-1]
    return pipe(
        **vars(inputs.prompt_embeds),
        latents=inputs.latents,
        height=side_px,
        width=side_px,
        num_inference_steps=inputs.num_inference_steps,
        guidance_scale=GUIDANCE_SCALE,
        output_type="latent",
        use_resolution_binning=False,
    ).images


def test_the_loop_of_diffusers_is_its_pipeline(published):
    pipe, size = published
    expected = pipeline_latents(pipe, make_denoising_inputs(size, device=CPU))
    assert torch.equal(get_last(make_both(size)[0].denoise()), expected)


def test_the_loop_of_dianjing_is_its_pipeline(published):
    pipe, size = published
    parts = {**pipe.components, "transformer": make_dianjing_model(pipe.transformer)}
    expected = pipeline_latents(TextToImagePipeline(**parts), make_denoising_inputs(size, device=CPU))
    assert torch.equal(get_last(make_both(size)[1].denoise()), expected)


def test_a_variance_of_zero_leaves_the_prediction_alone(tiny):
    config = {**tiny.config, "learn_sigma": False}
    plain = ModelSize(name="plain", weights="random", config=config, latent_size=8, num_inference_steps=1, min_pairs=1)
    diffusers_model = make_diffusers_model(plain)
    wide_config, wide_state = model_sizes.add_learned_variance(config, diffusers_model.state_dict())
    widened = ModelSize(
        name="w",
        weights="",
        config=wide_config,
        latent_size=8,
        num_inference_steps=1,
        min_pairs=1,
        state_dict=wide_state,
    )
    inputs = make_denoising_inputs(plain, device=CPU)
    narrow = make_diffusers_implementation("narrow", diffusers_model, inputs).predict()
    wide = make_diffusers_implementation("wide", make_diffusers_model(widened), inputs).predict()
    prediction, variance = wide.chunk(2, dim=1)
    assert max_relative_difference(prediction, narrow) <= TOLERANCE
    assert not variance.any()


@pytest.mark.parametrize(
    ("make", "width", "layers", "image_tokens"),
    [(model_sizes.make_medium_size, 768, 12, 256), (model_sizes.make_wide_size, 1408, 6, 1024)],
)
def test_sizes_are_what_the_table_says(make, width, layers, image_tokens):
    size = make()
    assert size.config["num_attention_heads"] * size.config["attention_head_dim"] == width
    assert (size.config["num_layers"], size.num_image_tokens, size.num_text_tokens) == (layers, image_tokens, 333)


def test_without_its_bundle_the_sticker_size_says_that_weights_are_random(monkeypatch):
    monkeypatch.setattr(model_sizes, "find_sticker_bundle", lambda: None)
    size = model_sizes.make_sticker_size()
    assert (size.weights, size.state_dict) == ("random", None)
    assert size.config["learn_sigma"]


def test_a_run_that_could_not_end_is_refused(tiny):
    with pytest.raises(AssertionError):
        ModelSize(name="short", weights="random", config=tiny.config, latent_size=8, num_inference_steps=5, min_pairs=4)


def test_both_pipelines_generate_the_same_image(published):
    from benchmarks.images import STAGES, make_pipelines, time_generation
    from benchmarks.timing import make_clock

    pipe, size = published
    bundle = TextToImagePipeline(**{**pipe.components, "transformer": make_dianjing_model(pipe.transformer)})
    pipes = make_pipelines(size, bundle, dtype=torch.float32)
    assert [type(each) for each in pipes] == [HunyuanDiTPipeline, TextToImagePipeline]
    noise = make_denoising_inputs(size, device=CPU).latents
    (_, diffusers_model), (seconds, dianjing_implementation) = (
        time_generation(each, noise, size_px=64, clock=make_clock(CPU)) for each in pipes
    )
    assert relative_l2_distance(dianjing_implementation, diffusers_model) <= TOLERANCE
    assert seconds["all"] == sum(seconds[stage] for stage in STAGES)
