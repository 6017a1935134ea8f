"""Films of the embedded model: from clicks and from words, as long as one likes."""

import numpy as np
import pytest
import torch

from dianjing import ImageToVideoPipeline, Region, TextToVideoPipeline
from dianjing.pipelines.vae import frames_to_pixels
from dianjing.train.evaluation.video_metrics import get_motion_requests, iterate_controlled_clips
from dianjing.train.stickers.tracking import estimate_motion

WORLD = {"size_px": 64, "num_frames": 9, "fps": 8.0}


@pytest.fixture(scope="module")
def clicks():
    pipe = ImageToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def words(clicks):
    pipe = TextToVideoPipeline.from_pretrained("sticker", **clicks.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def film(words, prompt, **settings):
    given = {"num_inference_steps": 6, "output_type": "uint8", "generator": torch.Generator().manual_seed(0)}
    return words(prompt, **{**given, **settings}).frames[0]


def test_clicks_move_what_was_clicked_and_the_first_frame_is_the_picture(clicks):
    """Truths of held-out scenes, read by comparing with every motion."""
    drawn = iterate_controlled_clips(num_moving=1, seed=11, **WORLD)
    for seed, clip in zip(range(3), drawn, strict=False):
        (asked,) = get_motion_requests(
            clip, "zh" if seed % 2 else "en", clicks.motion_vocabulary.get_speed, paraphrase_index=seed
        )
        region = Region(motion=asked.phrase, mask=clip.masks[0, asked.instance_index], strength=asked.strength)
        frames = clicks(clip.frames[0], [region], output_type="uint8").frames[0]
        assert (
            estimate_motion(frames, clip, asked.instance_index).motion
            == clip.object_motions[asked.instance_index].motion
        )
        np.testing.assert_array_equal(frames[0], clip.frames[0])


def test_a_window_does_not_depend_on_how_long_the_film_is(words):
    noise = torch.randn(1, 16, 17, 8, 8, generator=torch.Generator().manual_seed(1))
    prompt = "a cat jumping on the grass"
    long, short = (film(words, prompt, num_frames=n, latents=noise[:, :, :n]) for n in (17, 9))
    assert np.abs(long[:9].astype(int) - short).max() <= 1  # a level: sums of other sizes are rounded otherwise


@pytest.mark.parametrize("long_video", ["joint", "autoregressive"])
def test_a_jump_of_two_seconds_ends_every_second_where_it_began(words, long_video):
    frames = film(words, "a cat jumping on the grass", num_frames=17, long_video=long_video).astype(float)
    away = [np.abs(frames[at] - frames[0]).mean() for at in (4, 8, 12, 16)]
    assert max(away[1], away[3]) < 0.5 * min(away[0], away[2])


def test_without_a_motion_in_the_prompt_a_hint_is_given_and_a_film_made(words, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    assert film(words, "a cat on the grass", num_frames=3).shape == (3, 64, 64, 3)
    assert "it knows: " in caplog.text


def test_what_would_leave_the_picture_in_a_long_video_is_slower(clicks):
    """A square that goes to the right at full strength is out of the picture after two seconds."""
    picture, mask = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), bool)
    picture[24:40, 4:20], mask[24:40, 4:20] = (200, 40, 40), True
    pixels = frames_to_pixels(picture[None], device=clicks.execution_device, dtype=torch.float32)
    request = clicks._encode_motion_request(pixels, [mask[None]], [[("move right", 0.37)]])
    conditioner = clicks.transformer.motion_conditioner
    fast, slow = (
        request.limit_strength(conditioner, num_frames=n, window_size=9).motion_control.strengths[0, 0]
        for n in (5, 129)
    )
    assert fast == pytest.approx(0.37)
    assert 0 < slow < 0.1 * fast
