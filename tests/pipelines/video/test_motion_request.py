"""Videos of the bundled model, from regions and from text, also longer than a window."""

import numpy as np
import pytest
import torch

from dianjing import ImageToVideoPipeline, Region, TextToVideoPipeline
from dianjing.dit.motion.warp import push_pull_inpaint
from dianjing.pipelines.vae import encode_images, frames_to_pixels
from dianjing.train.evaluation.video_metrics import get_motion_requests, iterate_controlled_clips
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.tracking import estimate_motion

WORLD = {"size_px": 128, "num_frames": 9, "fps": 8.0}


@pytest.fixture(scope="module")
def image_to_video():
    pipe = ImageToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def text_to_video(image_to_video):
    pipe = TextToVideoPipeline.from_pretrained("sticker", **image_to_video.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(text_to_video, prompt, **settings):
    defaults = {"num_inference_steps": 6, "output_type": "uint8", "generator": torch.Generator().manual_seed(0)}
    return text_to_video(prompt, **{**defaults, **settings}).frames[0]


def test_a_region_moves_as_requested_and_the_first_frame_is_the_image(image_to_video):
    """Held-out scenes, whose motion is estimated by comparison with every motion."""
    clips = iterate_controlled_clips(num_moving=1, seed=11, **WORLD)
    for seed, clip in zip(range(3), clips, strict=False):
        (request,) = get_motion_requests(
            clip, "zh" if seed % 2 else "en", image_to_video.motion_vocabulary.get_speed, paraphrase_index=seed
        )
        region = Region(motion=request.phrase, mask=clip.masks[0, request.instance_index], strength=request.strength)
        frames = image_to_video(clip.frames[0], [region], output_type="uint8").frames[0]
        assert (
            estimate_motion(frames, clip, request.instance_index).motion
            == clip.object_motions[request.instance_index].motion
        )
        np.testing.assert_array_equal(frames[0], clip.frames[0])


def test_a_window_does_not_depend_on_the_length_of_the_video(text_to_video):
    noise = torch.randn(
        1, text_to_video.vae.config.latent_channels, 17, 8, 8, generator=torch.Generator().manual_seed(1)
    )
    prompt = "a cat jumping on the grass"
    long, short = (generate(text_to_video, prompt, num_frames=n, latents=noise[:, :, :n]) for n in (17, 9))
    assert np.abs(long[:9].astype(int) - short).max() <= 1  # sums of other sizes are rounded differently


@pytest.mark.parametrize("long_video", ["joint", "autoregressive"])
def test_a_jump_of_two_seconds_ends_every_second_where_it_began(text_to_video, long_video):
    frames = generate(text_to_video, "a cat jumping on the grass", num_frames=17, long_video=long_video).astype(float)
    distances = [np.abs(frames[index] - frames[0]).mean() for index in (4, 8, 12, 16)]
    assert max(distances[1], distances[3]) < 0.5 * min(distances[0], distances[2])


def test_without_a_motion_in_the_prompt_a_video_is_generated_with_a_warning(text_to_video, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    assert generate(text_to_video, "a cat on the grass", num_frames=3).shape == (3, 128, 128, 3)
    assert "it knows: " in caplog.text


def test_a_region_that_would_leave_the_image_in_a_long_video_is_slower(image_to_video):
    """A square that goes to the right at full strength is outside the image after two seconds."""
    image, mask = np.full((128, 128, 3), 255, np.uint8), np.zeros((128, 128), bool)
    image[48:80, 8:40], mask[48:80, 8:40] = (200, 40, 40), True
    pixels = frames_to_pixels(image[None], device=image_to_video.execution_device, dtype=torch.float32)
    request = image_to_video._encode_motion_request(pixels, [mask[None]], [[("move right", 0.37)]])
    conditioner = image_to_video.transformer.motion_conditioner
    fast, slow = (
        request.limit_strength(conditioner, num_frames=n, window_size=9).motion_control.strengths[0, 0]
        for n in (5, 129)
    )
    assert fast == pytest.approx(0.37)
    assert 0 < slow < 0.1 * fast


def test_behind_an_object_is_the_background_although_the_autoencoder_shows_traces_around_it(image_to_video):
    """Held-out scenes as the model's images show them; the background alone is the truth."""
    stage = CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)
    world = StickerWorld(size_px=128, split="held_out", stages=[stage])
    errors, smooth_errors = [], []
    for position in range(8):
        sample = world.get_image_sample(5, position)
        pixels = frames_to_pixels(sample.image[None], device=image_to_video.execution_device, dtype=torch.float32)
        latents = encode_images(image_to_video.vae, pixels)
        with torch.no_grad():
            decoded = image_to_video.vae.decode(latents / image_to_video.vae.config.scaling_factor).sample
        pixels = decoded.clamp(-1, 1)
        request = image_to_video._encode_motion_request(pixels, [sample.masks], [[("move right", 0.3)]])
        background, mask = request.inpaint_background(), torch.from_numpy(sample.masks)
        scene = sample.scene
        truth = render_background(scene.background, scene.variant, size_px=128)[sample.masks[0]].astype(float)
        for filled, results in ((background, errors), (push_pull_inpaint(pixels, mask[None].float()), smooth_errors)):
            levels = (filled[0].permute(1, 2, 0)[mask[0]].numpy() + 1) * 127.5
            results.append(np.abs(levels - truth).mean())
        far = torch.nn.functional.max_pool2d(mask.float(), 9, stride=1, padding=4) == 0  # 3.2 px, rounded up
        assert torch.equal(background[0][:, far[0]], pixels[0][:, far[0]])
    assert np.median(errors) < min(6, 0.8 * np.median(smooth_errors))
