"""Published video classes with tiny random weights: diffusers' output without control, warped frames inside masks."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError
from dianjing.demo.progress import decode_video
from dianjing.pipelines.video.published import PublishedVideoPipeline
from dianjing.pipelines.video.time_to_move import MotionGuide
from tests.published import IMAGE_MODELS, TEXT_MODELS

FRAMES, STEPS = 9, 5
CLOCKS = {"t_weak": 0.8, "t_strong": 0.4}  # computed from step 1 on, put back before steps 1 to 3
PROMPT = "a red square jumps"


def get_side(name):
    return 32 if "1.5" in name else 64


def make_warped_frames(side):
    """A red block that moves right, and its masks."""
    frames, masks = np.full((FRAMES, side, side, 3), 90, np.uint8), np.zeros((FRAMES, side, side), bool)
    for index in range(FRAMES):
        left = index * side // 64
        frames[index, 0 : side // 4, left : left + side // 2] = (220, 40, 40)
        masks[index, 0 : side // 4, left : left + side // 2] = True
    return frames, masks


@pytest.fixture(scope="module")
def load(published_folder):
    """Load a pipeline once."""
    pipes = {}

    def get(name, task):
        if (name, task) not in pipes:
            pipes[name, task] = PublishedVideoPipeline.from_pretrained(published_folder(name), task=task)
            pipes[name, task].pipe.set_progress_bar_config(disable=True)
        return pipes[name, task]

    return get


def make_reference(pipe, **arguments):
    """The video of diffusers' own pipeline, made anew over the same components."""
    kwargs = {} if pipe.model.pipeline.class_name.startswith("HunyuanVideo15Image") else {"height": 64, "width": 64}
    if "15" in pipe.model.pipeline.class_name and kwargs:
        kwargs = {"height": 32, "width": 32}
    cls = getattr(diffusers, pipe.model.pipeline.class_name)
    settings = {
        name: pipe.pipe.config[name] for name in ("boundary_ratio", "expand_timesteps") if name in pipe.pipe.config
    }
    reference = cls(**pipe.pipe.components, **settings)
    reference.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return reference(prompt=PROMPT, num_inference_steps=2, generator=generator, output_type="np", **kwargs, **arguments)


def check_previews(pipe, steps, frames):
    """The last step predicts the video (F, H, W, 3) itself, and the first step another."""
    assert [(step.index, step.num_steps) for step in steps] == [(0, 2), (1, 2)]
    first, last = (
        np.stack([np.asarray(frame, np.float32) for frame in decode_video(pipe.pipe.vae, step.predicted_x0)])
        for step in steps
    )
    assert np.abs(last - frames * 255).max() < 1
    assert np.abs(first - frames * 255).max() > 1


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_text_gives_the_frames_of_diffusers(load, name):
    pipe, side, steps = load(name, "text-to-video"), get_side(name), []
    frames = pipe(
        PROMPT,
        num_frames=FRAMES,
        height=side,
        width=side,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        on_step=steps.append,
    ).frames
    check_previews(pipe, steps, frames[0])
    expected = make_reference(pipe, num_frames=FRAMES).frames
    assert frames.shape == (1, FRAMES, side, side, 3)
    assert np.abs(frames - expected).max() < 1e-6


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_image_without_control_gives_the_frames_of_diffusers(load, name):
    pipe, side = load(name, "image-to-video"), get_side(name)
    image = Image.fromarray(make_warped_frames(side)[0][0])
    frames = pipe(
        PROMPT,
        image,
        num_frames=FRAMES,
        height=side,
        width=side,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames
    extra = 4 if name == "hunyuan-i2v-concat" else 0  # that it drops
    expected = make_reference(pipe, image=image, num_frames=FRAMES + extra).frames
    assert frames.shape == (1, FRAMES, side, side, 3)
    assert np.abs(frames - expected).max() < 1e-6


def encode(pipe, frames):
    """Latents of frames as each family scales them."""
    vae = pipe.pipe.vae
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    if "Wan" not in type(vae).__name__:
        return latents * vae.config.scaling_factor
    mean, std = (torch.tensor(vae.config[key])[:, None, None, None] for key in ("latents_mean", "latents_std"))
    return (latents - mean) / std


def get_sigmas(pipe):
    """Noise levels of the whole schedule, by a new scheduler."""
    scheduler = type(pipe.pipe.scheduler).from_config(pipe.pipe.scheduler.config)
    if "Hunyuan" in pipe.model.pipeline.class_name:
        scheduler.set_timesteps(sigmas=[1 - step / STEPS for step in range(STEPS)])
    else:
        scheduler.set_timesteps(STEPS)
    return scheduler.sigmas


def run_guided(pipe, side, **options):
    """Run with a guide; return the frames and what the transformers got in each step."""
    frames, masks = make_warped_frames(side)
    inputs = {}

    def record(module, args, kwargs):
        step = STEPS - len(pipe.pipe.scheduler.timesteps) + (pipe.pipe.scheduler.step_index or 0)
        inputs.setdefault(step, kwargs["hidden_states"].clone())

    parts = [getattr(pipe.pipe, name, None) for name in ("transformer", "transformer_2")]
    hooks = [part.register_forward_pre_hook(record, with_kwargs=True) for part in parts if part is not None]
    try:
        output = pipe(
            PROMPT,
            Image.fromarray(frames[0]),
            MotionGuide(frames=frames, masks=masks, **(CLOCKS | options)),
            num_frames=FRAMES,
            height=side,
            width=side,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="uint8",
        ).frames
    finally:
        for hook in hooks:
            hook.remove()
    return output, inputs


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_warped_frames_are_inside_the_mask_above_t_strong_and_the_still_image_outside(load, name):
    pipe, side = load(name, "image-to-video"), get_side(name)
    frames, masks = make_warped_frames(side)
    extra = 4 if name == "hunyuan-i2v-concat" else 0
    frames = np.concatenate([frames[:1].repeat(extra, 0), frames])
    warped, still = encode(pipe, frames), encode(pipe, frames[:1].repeat(len(frames), 0))
    noise = torch.randn(warped.shape, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(warped.shape[-2:], dtype=torch.bool)
    cell = side // warped.shape[-1]
    in_all_frames = torch.from_numpy(masks.all(axis=0))
    for row, column in np.ndindex(*inside.shape):  # cells that are covered in all frames
        inside[row, column] = in_all_frames[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].all()
    outside = torch.zeros_like(inside)
    outside[-2:, :] = True
    assert inside.any()

    output, inputs = run_guided(pipe, side)
    sigmas, channels = get_sigmas(pipe), warped.shape[1]
    assert sorted(inputs) == [1, 2, 3, 4]
    for step, latents in inputs.items():
        latents = latents[:, :channels, 1:]
        noised_warped = ((1 - sigmas[step]) * warped + sigmas[step] * noise)[:, :, 1:]
        noised_still = ((1 - sigmas[step]) * still + sigmas[step] * noise)[:, :, 1:]
        difference = (latents - noised_warped).abs()[..., inside]
        if step <= 3:
            assert difference.max() < 1e-4
        else:
            assert difference.mean() > 1e-2
        if step > 1:
            assert (latents - noised_still).abs()[..., outside].max() < 1e-4
    assert np.array_equal(output[0][:, -side // 8 :], np.broadcast_to(frames[0], output[0].shape)[:, -side // 8 :])

    free, inputs = run_guided(pipe, side, strict_background=False)
    latents = inputs[4][:, :channels, 1:]
    noised_still = ((1 - sigmas[4]) * still + sigmas[4] * noise)[:, :, 1:]
    assert (latents - noised_still).abs()[..., outside].mean() > 1e-3
    assert not np.array_equal(output, free)


def test_the_scheduler_is_as_before_after_a_guided_video_and_after_an_error(load, monkeypatch):
    pipe = load("wan-2.2-i2v", "image-to-video")
    scheduler = pipe.pipe.scheduler
    frames, masks = make_warped_frames(64)
    guide = MotionGuide(frames=frames, masks=masks)
    monkeypatch.setattr(type(scheduler), "step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipe(PROMPT, Image.fromarray(frames[0]), guide, num_frames=FRAMES, height=64, width=64, num_inference_steps=2)
    assert "step" not in vars(scheduler)
    assert "set_timesteps" not in vars(scheduler)
    assert scheduler.disable_corrector == []


def test_the_corrector_of_unipc_does_not_replace_what_was_put_back(load):
    pipe = load("wan-2.1-i2v", "image-to-video")
    states = []

    def record(module, args, kwargs):
        scheduler = pipe.pipe.scheduler
        if scheduler.last_sample is not None and scheduler.step_index is not None:
            states.append((scheduler.step_index, scheduler.last_sample.clone()))

    hook = pipe.pipe.transformer.register_forward_pre_hook(record, with_kwargs=True)
    _, inputs = run_guided(pipe, 64)
    hook.remove()
    for index, last_sample in states:  # what the step before began from is what the model got there
        assert torch.equal(last_sample, inputs[index][:, :16])


def test_the_default_clocks_are_those_of_the_authors():
    frames, masks = make_warped_frames(64)
    assert MotionGuide(frames=frames, masks=masks).get_steps(50) == (3, 7)
    assert MotionGuide(frames=frames, masks=masks, t_weak=1.0, t_strong=1.0).get_steps(50) == (0, 0)
    assert MotionGuide(frames=frames, masks=masks).get_steps(2) == (0, 1)


def test_wrong_guides_are_refused(load):
    frames, masks = make_warped_frames(64)
    with pytest.raises(DianjingError, match=r"t_weak is 0\.5 and t_strong 0\.6"):
        MotionGuide(frames=frames, masks=masks, t_weak=0.5, t_strong=0.6)
    with pytest.raises(DianjingError, match="shape"):
        MotionGuide(frames=frames, masks=masks[:5])
    guide = MotionGuide(frames=frames[:5], masks=masks[:5])
    with pytest.raises(DianjingError, match="make it for the length"):
        load("wan-2.1-i2v", "image-to-video")(
            PROMPT, Image.fromarray(frames[0]), guide, num_frames=9, width=64, height=64
        )
    with pytest.raises(DianjingError, match="negative_prompt"):
        load("hunyuan-t2v", "text-to-video")(PROMPT, negative_prompt="a dog", num_frames=5, width=64, height=64)
