"""Both sides hold the same weights, and their loops are those of the pipelines they stand for."""

import copy

import pytest
import torch
from diffusers import HunyuanDiTPipeline

from benchmarks import sizes
from benchmarks.contenders import GUIDANCE_SCALE, VAE_FACTOR, diffusers_contender, make_case, our_contender
from benchmarks.deviation import max_abs, relative_l2
from benchmarks.sizes import Size, make_ours, make_theirs
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
    theirs, case = make_theirs(size), make_case(size, device=CPU)
    return diffusers_contender("theirs", theirs, case), our_contender("ours", make_ours(theirs), case)


def test_both_sides_hold_the_same_weights(tiny):
    theirs = make_theirs(tiny)
    state = make_ours(theirs).state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())


def test_both_sides_predict_and_walk_alike_in_float32(tiny):
    theirs, ours = sides(tiny)
    assert max_abs(ours.forward(), theirs.forward()) <= TOLERANCE
    assert relative_l2(last(ours.walk()), last(theirs.walk())) <= TOLERANCE


def test_a_weight_that_is_not_shared_would_be_seen(tiny):
    theirs, case = make_theirs(tiny), make_case(tiny, device=CPU)
    stranger = copy.deepcopy(theirs)
    stranger.blocks[-1].norm2.weight.mul_(1.1)
    ours = our_contender("ours", make_ours(stranger), case)
    assert max_abs(ours.forward(), diffusers_contender("theirs", theirs, case).forward()) > 10 * TOLERANCE


def test_fused_projections_are_lossless(tiny):
    theirs, case = make_theirs(tiny), make_case(tiny, device=CPU)
    expected = diffusers_contender("stock", theirs, case).forward()
    theirs.fuse_qkv_projections()
    assert max_abs(diffusers_contender("fused", theirs, case).forward(), expected) <= TOLERANCE


@pytest.fixture
def published(make_hunyuan):
    """diffusers' tiny pipeline, and its transformer as a size."""
    pipe = make_hunyuan()
    known = {name: pipe.transformer.config[name] for name in sizes._known_keys()}
    size = Size(
        name="sticker", weights="random", config=known, latents_side=8, steps=3, min_pairs=6,
        state=pipe.transformer.state_dict(),
    )  # fmt: skip
    return pipe, size


def pipeline_latents(pipe, case):
    pipe.set_progress_bar_config(disable=True)
    side_px = VAE_FACTOR * case.latents.shape[-1]
    return pipe(
        **vars(case.text), latents=case.latents, height=side_px, width=side_px, num_inference_steps=case.steps,
        guidance_scale=GUIDANCE_SCALE, output_type="latent", use_resolution_binning=False,
    ).images  # fmt: skip


def test_their_walk_is_their_pipeline(published):
    pipe, size = published
    expected = pipeline_latents(pipe, make_case(size, device=CPU))
    assert torch.equal(last(sides(size)[0].walk()), expected)


def test_our_walk_is_our_pipeline(published):
    pipe, size = published
    parts = {**pipe.components, "transformer": make_ours(pipe.transformer)}
    expected = pipeline_latents(TextToImagePipeline(**parts), make_case(size, device=CPU))
    assert torch.equal(last(sides(size)[1].walk()), expected)


def test_a_variance_of_zero_leaves_the_prediction_alone(tiny):
    config = {**tiny.config, "learn_sigma": False}
    plain = Size(name="plain", weights="random", config=config, latents_side=8, steps=1, min_pairs=1)
    theirs = make_theirs(plain)
    wide_config, wide_state = sizes.with_variance(config, theirs.state_dict())
    widened = Size(name="w", weights="", config=wide_config, latents_side=8, steps=1, min_pairs=1, state=wide_state)
    case = make_case(plain, device=CPU)
    narrow = diffusers_contender("narrow", theirs, case).forward()
    wide = diffusers_contender("wide", make_theirs(widened), case).forward()
    prediction, variance = wide.chunk(2, dim=1)
    assert max_abs(prediction, narrow) <= TOLERANCE
    assert not variance.any()


@pytest.mark.parametrize(
    ("make", "width", "layers", "image_tokens"), [(sizes.middle, 768, 12, 256), (sizes.wide, 1408, 6, 1024)]
)
def test_sizes_are_what_the_table_says(make, width, layers, image_tokens):
    size = make()
    assert size.config["num_attention_heads"] * size.config["attention_head_dim"] == width
    assert (size.config["num_layers"], size.num_image_tokens, size.num_text_tokens) == (layers, image_tokens, 333)


def test_without_its_bundle_the_sticker_size_says_that_weights_are_random(monkeypatch):
    monkeypatch.setattr(sizes, "sticker_folder", lambda: None)
    size = sizes.sticker()
    assert (size.weights, size.state) == ("random", None)
    assert size.config["learn_sigma"]


def test_a_walk_that_could_not_end_is_refused(tiny):
    with pytest.raises(ValueError, match="no walk would end"):
        Size(name="short", weights="random", config=tiny.config, latents_side=8, steps=5, min_pairs=4)


def test_both_pipelines_draw_the_same_picture(published):
    from benchmarks.pictures import STAGES, draw, make_pipelines
    from benchmarks.timing import make_clock

    pipe, size = published
    bundle = TextToImagePipeline(**{**pipe.components, "transformer": make_ours(pipe.transformer)})
    pipes = make_pipelines(size, bundle, dtype=torch.float32)
    assert [type(each) for each in pipes] == [HunyuanDiTPipeline, TextToImagePipeline]
    noise = make_case(size, device=CPU).latents
    (_, theirs), (seconds, ours) = (draw(each, noise, size_px=64, clock=make_clock(CPU)) for each in pipes)
    assert relative_l2(ours, theirs) <= TOLERANCE
    assert seconds["all"] == sum(seconds[stage] for stage in STAGES)
