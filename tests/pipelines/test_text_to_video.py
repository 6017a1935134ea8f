"""Films from words: lengths, windows, and what a film has in common with pictures."""

import numpy as np
import pytest
import torch

from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.pipelines.video.windows import get_max_window_size, make_joint_windows


def load(cls, folder):
    pipe = cls.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(video_folder):
    return load(TextToVideoPipeline, video_folder)


@pytest.fixture(scope="module")
def moving(video_folder):
    """Random weights at the end of the motion blocks, so that frames see each other."""
    pipe = load(TextToVideoPipeline, video_folder)
    torch.manual_seed(1)
    for block in pipe.transformer.motion_blocks:
        torch.nn.init.normal_(block.attn1.to_out[0].weight, std=0.3)
    return pipe


def latents_of(pipe, prompt="a cat", **settings):
    settings = {"num_inference_steps": 3, "output_type": "latent", **settings}
    if "latents" in settings:
        settings["num_frames"] = settings["latents"].shape[2]
    else:
        settings.setdefault("generator", torch.Generator().manual_seed(0))
    return pipe(prompt, **settings).frames


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_frames", [3, 13])
def test_before_training_every_frame_is_the_picture_of_its_noise(pipe, video_folder, num_frames):
    pictures = load(TextToImagePipeline, video_folder)
    noise = torch.randn((1, 4, num_frames, 8, 8), generator=torch.Generator().manual_seed(3))
    film = latents_of(pipe, latents=noise)
    frames = noise[0].transpose(0, 1)
    drawn = pictures(["a cat"] * num_frames, num_inference_steps=3, latents=frames, output_type="latent").images
    close(film[0].transpose(0, 1), drawn)


def test_one_folder_serves_pictures_and_films_without_a_warning(video_folder, caplog):
    for cls in (TextToImagePipeline, TextToVideoPipeline):
        load(cls, video_folder)
    assert "ignored" not in caplog.text


def test_frames_see_each_other_across_windows(moving):
    noise = torch.randn((1, 4, 12, 8, 8), generator=torch.Generator().manual_seed(3))
    changed = noise.clone()
    changed[:, :, 0] += 1
    after, before = (latents_of(moving, latents=latents, long_video="joint") for latents in (changed, noise))
    moved = (after - before).abs().amax(dim=(0, 1, 3, 4))
    assert (moved[:8] > 1e-6).all()  # a window holds 4


def test_a_film_of_one_window_is_drawn_at_once(moving, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "dianjing.pipelines.video.denoiser.predict_model_output", lambda t, x, c: seen.append(x.shape[2]) or (x, x)
    )
    latents_of(moving, num_frames=6, long_video="joint")
    latents_of(moving, num_frames=9, long_video="joint")
    assert seen[:3] == [6, 6, 6]
    assert max(seen[3:]) <= get_max_window_size(4)
    assert sum(seen[3:]) == 3 * 9


def test_a_seed_gives_the_same_film_whatever_the_batch(moving):
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    together = latents_of(moving, ["a cat", "red hearts"], generator=seeds, num_frames=3)
    alone = latents_of(moving, "red hearts", generator=[torch.Generator().manual_seed(6)], num_frames=3)
    close(together[1:], alone)


def test_a_film_is_a_picture_that_moves(moving):
    film = latents_of(moving, num_frames=3)
    pictures = TextToImagePipeline(**moving.components)
    noise = torch.randn((1, 4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 3, "output_type": "latent", "latents": noise[:, :, 0], "guidance_scale": 5.0}
    close(film[:, :, 0], pictures("a cat", **settings).images)
    assert not torch.allclose(film[:, :, 1], film[:, :, 0], atol=1e-2)


def test_a_continued_film_goes_on_from_what_is_drawn(moving):
    film = latents_of(moving, num_frames=9, long_video="autoregressive")
    assert film.shape == (1, 4, 9, 8, 8)
    noise = torch.randn((1, 4, 9, 8, 8), generator=torch.Generator().manual_seed(0))
    close(film[:, :, :4], latents_of(moving, latents=noise[:, :, :4]))
    close(film[:, :, :1], latents_of(moving, latents=noise[:, :, :1]))  # a picture


def test_length_is_frames_or_seconds(pipe):
    assert latents_of(pipe).shape[2] == 4
    assert latents_of(pipe, num_frames=2).shape[2] == 2
    assert latents_of(pipe, duration_s=0.5, fps=12).shape[2] == 6
    assert latents_of(pipe, num_frames=1).shape[2] == 1


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
def test_what_cannot_be_drawn_is_refused_by_name(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe("a cat", **settings)


def test_outputs_are_what_was_asked_for(pipe):
    draw = {"num_frames": 2, "num_inference_steps": 1}
    films = {
        kind: pipe("a cat", output_type=kind, generator=torch.Generator().manual_seed(0), **generate_latents).frames
        for kind in ("pil", "np", "pt", "uint8")
    }
    assert films["uint8"].shape == (1, 2, 64, 64, 3)
    np.testing.assert_array_equal(np.asarray(films["pil"][0][1]), films["uint8"][0, 1])
    np.testing.assert_allclose(films["np"] * 255, films["uint8"], atol=1e-3)
    np.testing.assert_allclose(films["pt"].permute(0, 1, 3, 4, 2), films["np"])


def test_callback_sees_and_stops_a_film(pipe):
    steps = []

    def stop_after_two(pipe, step, timestep, tensors):
        steps.append(tensors["latents"].shape)
        pipe._interrupt = step == 1
        return {}

    pipe("a cat", num_frames=3, num_inference_steps=5, output_type="latent", callback_on_step_end=stop_after_two)
    assert steps == [(1, 4, 1, 8, 8)] * 2  # of the picture that it begins with


def test_a_picture_model_is_refused(hunyuan_folder):
    with pytest.raises(ValueError, match="use_motion_blocks"):
        TextToVideoPipeline.from_pretrained(hunyuan_folder)


@pytest.mark.parametrize("num_frames", [1, 16, 20, 21, 37, 128])
def test_windows_are_all_frames_once_and_none_is_too_long(num_frames):
    for step in range(20):
        windows = make_joint_windows(num_frames, window_size=16, step=step)
        frames = [frame for window in windows for frame in range(window.start, window.stop)]
        assert frames == list(range(num_frames))
        assert max(w.stop - w.start for w in windows) <= get_max_window_size(16)
        assert num_frames < 4 or min(w.stop - w.start for w in windows) >= 4


def test_edges_of_windows_move_so_that_any_two_frames_meet():
    met = np.zeros((64, 64), bool)
    for step in range(8):
        for window in make_joint_windows(64, window_size=16, step=step):
            met[window, window] = True
    assert all(met[frame, frame + 1] for frame in range(63))
    assert all(met[frame, frame + 8] for frame in range(56))
