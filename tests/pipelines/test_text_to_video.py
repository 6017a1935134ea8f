"""Text to video: lengths, windows, and what a video has in common with images."""

import numpy as np
import pytest
import torch

from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.pipelines.video.windows import get_max_window_size


def load(cls, folder):
    pipe = cls.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(video_folder):
    return load(TextToVideoPipeline, video_folder)


@pytest.fixture(scope="module")
def moving_pipe(video_folder):
    """Random weights at the end of the motion blocks, so that frames attend to each other."""
    pipe = load(TextToVideoPipeline, video_folder)
    torch.manual_seed(1)
    for block in pipe.transformer.motion_blocks:
        torch.nn.init.normal_(block.attn1.to_out[0].weight, std=0.3)
    return pipe


def generate(pipe, prompt="a cat", **settings):
    settings = {"num_inference_steps": 3, "output_type": "latent", **settings}
    if "latents" in settings:
        settings["num_frames"] = settings["latents"].shape[2]
    else:
        settings.setdefault("generator", torch.Generator().manual_seed(0))
    return pipe(prompt, **settings).frames


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_frames", [3, 13])
def test_before_training_every_frame_is_the_image_of_its_noise(pipe, video_folder, num_frames):
    images = load(TextToImagePipeline, video_folder)
    noise = torch.randn((1, 4, num_frames, 8, 8), generator=torch.Generator().manual_seed(3))
    video = generate(pipe, latents=noise)
    frames = noise[0].transpose(0, 1)
    latents = images(["a cat"] * num_frames, num_inference_steps=3, latents=frames, output_type="latent").images
    assert_close(video[0].transpose(0, 1), latents)


def test_one_folder_loads_as_image_and_video_pipeline_without_a_warning(video_folder, caplog):
    for cls in (TextToImagePipeline, TextToVideoPipeline):
        load(cls, video_folder)
    assert "ignored" not in caplog.text


def test_frames_attend_to_each_other_across_windows(moving_pipe):
    noise = torch.randn((1, 4, 12, 8, 8), generator=torch.Generator().manual_seed(3))
    changed = noise.clone()
    changed[:, :, 0] += 1
    after, before = (generate(moving_pipe, latents=latents, long_video="joint") for latents in (changed, noise))
    change = (after - before).abs().amax(dim=(0, 1, 3, 4))
    assert (change[:8] > 1e-6).all()  # a window holds 4


def test_a_video_of_one_window_is_sampled_at_once(moving_pipe, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "dianjing.pipelines.video.denoiser.predict_model_output", lambda t, x, c: sizes.append(x.shape[2]) or (x, x)
    )
    generate(moving_pipe, num_frames=6, long_video="joint")
    generate(moving_pipe, num_frames=9, long_video="joint")
    assert sizes[:3] == [6, 6, 6]
    assert max(sizes[3:]) <= get_max_window_size(4)
    assert sum(sizes[3:]) == 3 * 9


def test_a_seed_gives_the_same_video_whatever_the_batch(moving_pipe):
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    together = generate(moving_pipe, ["a cat", "red hearts"], generator=seeds, num_frames=3)
    alone = generate(moving_pipe, "red hearts", generator=[torch.Generator().manual_seed(6)], num_frames=3)
    assert_close(together[1:], alone)


def test_the_first_frame_of_a_video_is_the_image_of_its_noise(moving_pipe):
    video = generate(moving_pipe, num_frames=3)
    images = TextToImagePipeline(**moving_pipe.components)
    noise = torch.randn((1, 4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 3, "output_type": "latent", "latents": noise[:, :, 0], "guidance_scale": 5.0}
    assert_close(video[:, :, 0], images("a cat", **settings).images)
    assert not torch.allclose(video[:, :, 1], video[:, :, 0], atol=1e-2)


def test_an_autoregressive_video_continues_its_last_frame(moving_pipe):
    video = generate(moving_pipe, num_frames=9, long_video="autoregressive")
    assert video.shape == (1, 4, 9, 8, 8)
    noise = torch.randn((1, 4, 9, 8, 8), generator=torch.Generator().manual_seed(0))
    assert_close(video[:, :, :4], generate(moving_pipe, latents=noise[:, :, :4]))
    assert_close(video[:, :, :1], generate(moving_pipe, latents=noise[:, :, :1]))  # an image


def test_length_is_frames_or_seconds(pipe):
    assert generate(pipe).shape[2] == 4
    assert generate(pipe, num_frames=2).shape[2] == 2
    assert generate(pipe, duration_s=0.5, fps=12).shape[2] == 6
    assert generate(pipe, num_frames=1).shape[2] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 10**9}, "fit in half of the memory"),
        ({"num_frames": 2.5}, r"num_frames is 2\.5"),
        ({"num_frames": 4, "duration_s": 1}, "give one of them"),
        ({"duration_s": 0}, "duration_s is 0"),
        ({"duration_s": float("nan")}, "duration_s is nan"),
        ({"fps": 0}, "fps is 0"),
        ({"width": 60}, "width 60 px"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"output_type": "gif"}, "output_type is 'gif'"),
        ({"long_video": "both"}, "long_video is 'both'"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "latents has shape"),
    ],
)
def test_unusable_arguments_are_refused_by_name(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe("a cat", **settings)


def test_every_output_type_has_the_same_frames(pipe):
    settings = {"num_frames": 2, "num_inference_steps": 1}
    videos = {
        kind: pipe("a cat", output_type=kind, generator=torch.Generator().manual_seed(0), **settings).frames
        for kind in ("pil", "np", "pt", "uint8")
    }
    assert videos["uint8"].shape == (1, 2, 64, 64, 3)
    np.testing.assert_array_equal(np.asarray(videos["pil"][0][1]), videos["uint8"][0, 1])
    np.testing.assert_allclose(videos["np"] * 255, videos["uint8"], atol=1e-3)
    np.testing.assert_allclose(videos["pt"].permute(0, 1, 3, 4, 2), videos["np"])


def test_a_callback_can_stop_a_video(pipe):
    steps = []

    def stop_after_two(pipe, step, timestep, tensors):
        steps.append(tensors["latents"].shape)
        pipe.interrupt = step == 1
        return {}

    pipe("a cat", num_frames=3, num_inference_steps=5, output_type="latent", callback_on_step_end=stop_after_two)
    assert steps == [(1, 4, 1, 8, 8)] * 2  # of the first frame


def test_an_image_model_is_refused(hunyuan_folder):
    with pytest.raises(ValueError, match="use_motion_blocks"):
        TextToVideoPipeline.from_pretrained(hunyuan_folder)


def test_a_guider_guides_the_frames_of_a_video(moving_pipe):
    settings = {"num_frames": 13, "guidance_scale": 4.0, "negative_prompt": "a dog"}
    plain = generate(moving_pipe, **settings)
    assert_close(generate(moving_pipe, guider="cfg", **settings), plain)
    options = "layers=1,skip_layer_guidance_start=0,skip_layer_guidance_stop=1"
    skipped = generate(moving_pipe, guider=f"skip_layer:{options}", **settings)
    assert (skipped - plain).abs().max() > 1e-2
    unscaled = generate(moving_pipe, guider=f"skip_layer:{options},skip_layer_guidance_scale=0", **settings)
    assert_close(unscaled, plain)
