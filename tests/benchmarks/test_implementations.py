"""Both sides hold the same weights, and their loops are those of the pipelines they stand for."""

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


def last(walk):
    *_, latents = walk
    return latents


def sides(size):
    theirs, case = make_diffusers_model(size), make_denoising_inputs(size, device=CPU)
    return make_diffusers_implementation("theirs", theirs, case), make_dianjing_implementation(
        "ours", make_dianjing_model(theirs), case
    )


def test_both_sides_hold_the_same_weights(tiny):
    theirs = make_diffusers_model(tiny)
    state = make_dianjing_model(theirs).state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())


def test_both_sides_predict_and_walk_alike_in_float32(tiny):
    theirs, ours = sides(tiny)
    assert max_relative_difference(ours.predict(), theirs.predict()) <= TOLERANCE
    assert relative_l2_distance(last(ours.denoise()), last(theirs.denoise())) <= TOLERANCE


def test_a_weight_that_is_not_shared_would_be_seen(tiny):
    theirs, case = make_diffusers_model(tiny), make_denoising_inputs(tiny, device=CPU)
    stranger = copy.deepcopy(theirs)
    stranger.blocks[-1].norm2.weight.mul_(1.1)
    ours = make_dianjing_implementation("ours", make_dianjing_model(stranger), case)
    assert (
        max_relative_difference(ours.predict(), make_diffusers_implementation("theirs", theirs, case).predict())
        > 10 * TOLERANCE
    )


def test_fused_projections_are_lossless(tiny):
    theirs, case = make_diffusers_model(tiny), make_denoising_inputs(tiny, device=CPU)
    expected = make_diffusers_implementation("stock", theirs, case).predict()
    theirs.fuse_qkv_projections()
    assert (
        max_relative_difference(make_diffusers_implementation("fused", theirs, case).predict(), expected) <= TOLERANCE
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


def pipeline_latents(pipe, case):
    pipe.set_progress_bar_config(disable=True)
    side_px = VAE_SCALE_FACTOR * case.latents.shape[-1]
    return pipe(
        **vars(case.text),
        latents=case.latents,
        height=side_px,
        width=side_px,
        num_inference_steps=case.steps,
        guidance_scale=GUIDANCE_SCALE,
        output_type="latent",
        use_resolution_binning=False,
    ).images


def test_their_walk_is_their_pipeline(published):
    pipe, size = published
    expected = pipeline_latents(pipe, make_denoising_inputs(size, device=CPU))
    assert torch.equal(last(sides(size)[0].denoise()), expected)


def test_our_walk_is_our_pipeline(published):
    pipe, size = published
    parts = {**pipe.components, "transformer": make_dianjing_model(pipe.transformer)}
    expected = pipeline_latents(TextToImagePipeline(**parts), make_denoising_inputs(size, device=CPU))
    assert torch.equal(last(sides(size)[1].denoise()), expected)


def test_a_variance_of_zero_leaves_the_prediction_alone(tiny):
    config = {**tiny.config, "learn_sigma": False}
    plain = ModelSize(name="plain", weights="random", config=config, latent_size=8, num_inference_steps=1, min_pairs=1)
    theirs = make_diffusers_model(plain)
    wide_config, wide_state = model_sizes.add_learned_variance(config, theirs.state_dict())
    widened = ModelSize(
        name="w",
        weights="",
        config=wide_config,
        latent_size=8,
        num_inference_steps=1,
        min_pairs=1,
        state_dict=wide_state,
    )
    case = make_denoising_inputs(plain, device=CPU)
    narrow = make_diffusers_implementation("narrow", theirs, case).predict()
    wide = make_diffusers_implementation("wide", make_diffusers_model(widened), case).predict()
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


def test_a_walk_that_could_not_end_is_refused(tiny):
    with pytest.raises(ValueError, match="no walk would end"):
        ModelSize(name="short", weights="random", config=tiny.config, latent_size=8, num_inference_steps=5, min_pairs=4)


def test_both_pipelines_draw_the_same_picture(published):
    from benchmarks.images import STAGES, make_pipelines, time_generation
    from benchmarks.timing import make_clock

    pipe, size = published
    bundle = TextToImagePipeline(**{**pipe.components, "transformer": make_dianjing_model(pipe.transformer)})
    pipes = make_pipelines(size, bundle, dtype=torch.float32)
    assert [type(each) for each in pipes] == [HunyuanDiTPipeline, TextToImagePipeline]
    noise = make_denoising_inputs(size, device=CPU).latents
    (_, theirs), (seconds, ours) = (time_generation(each, noise, size_px=64, clock=make_clock(CPU)) for each in pipes)
    assert relative_l2_distance(ours, theirs) <= TOLERANCE
    assert seconds["all"] == sum(seconds[stage] for stage in STAGES)
