"""The cost model: operations as torch counts them, seconds as they were measured."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dianjing import TextToImagePipeline, TextToVideoPipeline
from dianjing.pipelines import cost_model
from dianjing.pipelines.cost_model import DECODE_PROBE_SIDE, CostModel, SamplingWork, TransformerShape

SHAPE = TransformerShape(
    num_layers=6,
    num_motion_blocks=3,
    width=256,
    mlp_ratio=4.0,
    num_text_tokens=64,
    token_side_px=16,
    has_full_temporal_attention=True,
)
IMAGE = SamplingWork(num_frames=1, num_steps=30, num_passes=2)


def make_model(**changed):
    return CostModel(SHAPE, **{"step_overhead_s": 0.01, "flops_per_s": 1e10, "decode_s_per_pixel": 1e-6} | changed)


@pytest.fixture(scope="module")
def pipe():
    return TextToVideoPipeline.from_pretrained("sticker")


def count_sampled_flops(run):
    """The operations of a transformer, as torch counts those of its matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no attention of CPUs
        run()
    return sum(counter.get_flop_counts()["DiT"].values())


@pytest.mark.parametrize(("side_px", "guidance_scale", "num_images"), [(128, 4.0, 1), (256, 1.0, 1), (384, 4.0, 3)])
def test_operations_of_images_are_those_that_torch_counts(pipe, side_px, guidance_scale, num_images):
    images = TextToImagePipeline.from_pipe(pipe)
    images.set_progress_bar_config(disable=True)
    flops = count_sampled_flops(
        lambda: images(
            "cat",
            width=side_px,
            height=side_px,
            num_inference_steps=2,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images,
            output_type="latent",
        )
    )
    shape = TransformerShape.from_transformer(pipe.transformer, vae_scale_factor=pipe.vae_scale_factor)
    passes = 2 if guidance_scale > 1 else 1
    work = SamplingWork(num_frames=num_images, num_steps=2, num_passes=passes)
    assert 2 * shape.count_step_flops(work, width=side_px, height=side_px) == pytest.approx(flops, rel=0.1)


@pytest.mark.parametrize("side_px", [128, 256])
def test_operations_of_videos_are_those_that_torch_counts(pipe, side_px):
    """Those of further steps: what a clip takes once, such as finding its objects, is left out of the model."""
    pipe.set_progress_bar_config(disable=True)
    sizes = {"width": side_px, "height": side_px, "num_frames": 9, "output_type": "latent"}
    few, more = (
        count_sampled_flops(
            partial(pipe, "a cat jumping", num_inference_steps=steps, continuation_steps=continuation_steps, **sizes)
        )
        for steps, continuation_steps in ((2, 3), (4, 5))
    )
    shape = TransformerShape.from_transformer(pipe.transformer, vae_scale_factor=pipe.vae_scale_factor)
    runs = [
        SamplingWork(num_frames=1, num_steps=2, num_passes=2),
        SamplingWork(num_frames=9, num_steps=2, num_passes=1, window_size=9),
    ]
    expected = sum(run.num_steps * shape.count_step_flops(run, width=side_px, height=side_px) for run in runs)
    assert expected == pytest.approx(more - few, rel=0.1)


def test_seconds_are_overhead_operations_and_decoding():
    model = make_model()
    flops = 30 * SHAPE.count_step_flops(IMAGE, width=64, height=64)
    assert model.predict_s([IMAGE], width=64, height=64) == pytest.approx(0.3 + flops / 1e10 + 64 * 64 * 1e-6)


def test_a_long_run_corrects_the_prediction_at_once_and_short_ones_little_by_little():
    for measured_s, share in ((1000.0, 0.95), (0.1, 0.01)):
        model = make_model()
        before = model.predict_s([IMAGE], width=256, height=256)
        model.add_run(predicted_s=measured_s / 2, measured_s=measured_s)
        after = model.predict_s([IMAGE], width=256, height=256)
        assert before * 2**share * 0.95 < after <= before * 2
        assert (after < before * 1.02) == (measured_s < 1)


def test_many_short_runs_on_a_machine_that_became_slower_correct_it_too():
    model = make_model()
    first = model.predict_s([IMAGE], width=64, height=64)
    for _ in range(200):
        model.add_run(predicted_s=model.predict_s([IMAGE], width=64, height=64), measured_s=3 * first)
    assert model.predict_s([IMAGE], width=64, height=64) == pytest.approx(3 * first, rel=0.05)


def set_machine(monkeypatch, shape, *, overhead_s, flops_per_s, decode_s):
    """Let the steps of a pipeline take as long as on a machine of this speed."""
    one = SamplingWork(num_frames=1, num_steps=1, num_passes=1)

    def time_step(pipe, grid, *, clock):
        side_px = grid * shape.token_side_px
        return overhead_s + shape.count_step_flops(one, width=side_px, height=side_px) / flops_per_s

    monkeypatch.setattr("dianjing.pipelines.cost_model._time_step", time_step)
    monkeypatch.setattr("dianjing.pipelines.cost_model._time_decoding", lambda pipe, *, clock: decode_s)


@pytest.mark.parametrize("flops_per_s", [1e9, 5e10, 1e14])
def test_a_machine_of_any_speed_is_measured(pipe, monkeypatch, flops_per_s):
    set_machine(monkeypatch, SHAPE, overhead_s=0.02, flops_per_s=flops_per_s, decode_s=0.1)
    model = CostModel.measure(TextToImagePipeline.from_pipe(pipe))
    large = SamplingWork(num_frames=1, num_steps=1, num_passes=2)
    expected = 0.02 + model.shape.count_step_flops(large, width=1024, height=1024) / flops_per_s
    decoding_s = 0.1 * (1024 / (DECODE_PROBE_SIDE * pipe.vae_scale_factor)) ** 2
    assert model.predict_s([large], width=1024, height=1024) == pytest.approx(expected + decoding_s, rel=0.3)


def test_measuring_takes_a_few_small_images_and_leaves_the_pipeline_as_it_was(pipe, monkeypatch):
    images = TextToImagePipeline.from_pipe(pipe)
    images.set_progress_bar_config(disable=True)

    def generate():
        return images("cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images

    before = generate()
    times = iter(range(1000))
    model = CostModel.measure(images, clock=lambda: float(next(times)))  # every step takes a second: a large model
    assert next(times) == 6  # two steps and one decoding
    assert model.flops_per_s > 0
    assert torch.equal(generate(), before)


def test_a_machine_that_is_interrupted_at_times_is_measured_all_the_same(pipe, monkeypatch):
    set_machine(monkeypatch, SHAPE, overhead_s=0.01, flops_per_s=1e10, decode_s=0.1)
    steady = CostModel.measure(TextToImagePipeline.from_pipe(pipe))
    time_step, calls = cost_model._time_step, []

    def time_interrupted_step(pipe, grid, *, clock):
        calls.append(grid)
        return time_step(pipe, grid, clock=clock) + (0.9 if len(calls) % 2 else 0.0)

    monkeypatch.setattr(cost_model, "_time_step", time_interrupted_step)
    interrupted = CostModel.measure(TextToImagePipeline.from_pipe(pipe))
    large = SamplingWork(num_frames=1, num_steps=1, num_passes=2)
    expected = steady.predict_s([large], width=1024, height=1024)
    assert interrupted.predict_s([large], width=1024, height=1024) == pytest.approx(expected, rel=0.1)
