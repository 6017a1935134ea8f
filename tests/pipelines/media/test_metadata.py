"""Generation metadata: the settings of a call, with which it can be made again, and hashes of its inputs."""

import hashlib

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from PIL import Image

from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.image import get_input_image_metadata
from dianjing.pipelines.media.metadata import compute_file_sha256, get_sampling_metadata
from dianjing.pipelines.segmentation.base import Point, Region, get_region_metadata
from dianjing.pipelines.text_to_video import TextToVideoPipeline

NOT_ARGUMENTS = {"scheduler", "device", "dtype"}


def get_arguments(pipe) -> dict[str, object]:
    return {name: value for name, value in get_sampling_metadata(pipe).items() if name not in NOT_ARGUMENTS}


@pytest.fixture
def video_pipe(video_folder):
    """A model whose frames after a first frame take other settings than an image."""
    source = TextToVideoPipeline.from_pretrained(video_folder)
    pipe = TextToVideoPipeline(
        **source.components,
        default_num_inference_steps=4,
        default_guidance_scale=5.0,
        default_num_frames=3,
        default_continuation_steps=2,
        default_continuation_guidance_scale=1.0,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, prompt="a cat", **arguments):
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, num_frames=5, generator=generator, output_type="latent", **arguments).frames


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_inference_steps": 3},
        {"guidance_scale": 2.0, "guidance_rescale": 0.5},
        {"num_inference_steps": 3, "continuation_steps": 1, "continuation_guidance_scale": 4.0, "eta": 0.3},
        {"long_video": "joint"},
    ],
    ids=str,
)
def test_the_recorded_settings_generate_the_same_video_again(video_pipe, arguments):
    frames = generate(video_pipe, **arguments)
    mode = {name: arguments[name] for name in ("long_video",) if name in arguments}
    assert torch.equal(generate(video_pipe, **mode, **get_arguments(video_pipe)), frames)


def test_a_video_is_recorded_with_the_settings_of_its_first_frame_and_of_the_frames_after_it(video_pipe):
    generate(video_pipe)
    assert get_arguments(video_pipe) == {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "continuation_steps": 2,
        "continuation_guidance_scale": 1.0,
    }
    assert video_pipe.guidance_scale == 5.0
    generate(video_pipe, num_inference_steps=3, guidance_scale=2.0)
    assert set(get_arguments(video_pipe).values()) == {3, 2.0}


def test_a_scheduler_of_higher_order_is_recorded_with_the_steps_of_the_call(pipe, generate_latents):
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    generate_latents(pipe, num_inference_steps=3)
    assert pipe.num_timesteps == 5
    assert get_sampling_metadata(pipe)["num_inference_steps"] == 3


def test_settings_that_are_off_by_default_are_recorded_only_if_used(pipe, generate_latents):
    generate_latents(pipe)
    assert get_arguments(pipe) == {"num_inference_steps": 3, "guidance_scale": 5.0}
    generate_latents(pipe, eta=0.5, guidance_rescale=0.2)
    assert get_arguments(pipe) == {"num_inference_steps": 3, "guidance_scale": 5.0, "guidance_rescale": 0.2, "eta": 0.5}


def test_an_animation_is_recorded_with_the_settings_of_continuation(video_pipe):
    pipe = ImageToVideoPipeline.from_pipe(video_pipe)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    image = np.full((64, 64, 3), 90, np.uint8)
    pipe(image, [Region(motion="jump", mask=mask)], num_frames=3, output_type="latent")
    assert get_arguments(pipe) == {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.mark.parametrize("extension", ["png", "bmp", "webp"])
def test_an_input_image_has_the_hash_of_its_pixels_in_any_format(tmp_path, extension):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{extension}", lossless=True)
    with Image.open(tmp_path / f"a.{extension}") as image:
        metadata = get_input_image_metadata(image, name="a")
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert metadata == {"name": "a", "width": 8, "height": 6, "pixels_sha256": sha256}


def test_regions_are_recorded_by_their_points_or_by_a_hash_of_their_mask():
    clicked = get_region_metadata(Region(motion="jump", points=[Point(x=3, y=4)], strength=0.7))
    assert clicked == {"motion": "jump", "strength": 0.7, "points": [{"x": 3, "y": 4, "positive": True}]}
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    described = get_region_metadata(Region(motion="jump", mask=mask))["mask"]
    assert (described["width"], described["height"]) == (6, 4)
    mask[1, 3] = True
    assert get_region_metadata(Region(motion="jump", mask=mask))["mask"] != described


def test_a_file_is_recorded_by_its_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert compute_file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
