"""Requests: their work is what is sampled, frame by frame, step by step and pass by pass."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from dianjing import DiT, Point, Region
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Done
from dianjing.demo.requests import ImageToVideoRequest, TextToImageRequest, TextToVideoRequest

ANIMATION = {"image": Image.new("RGB", (32, 32), "white"), "regions": [Region(motion="jump", points=[Point(x=9, y=9)])]}
REQUESTS = {
    "an image": TextToImageRequest(prompt="cat"),
    "many images": TextToImageRequest(prompt="cat", num_images=9, num_inference_steps=3),
    "one frame": TextToVideoRequest(prompt="cat", num_frames=1),
    "one window": TextToVideoRequest(prompt="cat"),
    "windows": TextToVideoRequest(prompt="cat", num_frames=10),
    "windows in other steps": TextToVideoRequest(prompt="cat", num_frames=9, num_inference_steps=3),
    "joint windows": TextToVideoRequest(prompt="cat", num_frames=9, long_video="joint"),
    "an animation": ImageToVideoRequest(**ANIMATION),
    "a long animation in other steps": ImageToVideoRequest(**ANIMATION, num_frames=6, num_inference_steps=2),
}


@pytest.fixture(scope="module", params=[False, True], ids=["without a flow field", "with a flow field"])
def engine(request, tiny_video_folder, tmp_path_factory):
    """An engine whose continued frames take one step by default, and images two."""
    folder = shutil.copytree(tiny_video_folder, tmp_path_factory.mktemp("models") / "quick")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"default_continuation_steps": 1, "default_continuation_guidance_scale": 1.0}
    (folder / "model_index.json").write_text(json.dumps(index))
    if request.param:
        plain = DiT.from_pretrained(folder / "transformer")
        DiT.from_config({**plain.config, "use_flow_field": True}).save_pretrained(folder / "transformer")
    return InferenceEngine.from_pretrained(str(folder))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_planned_work_is_what_the_transformer_computes(name, make_queue, engine):
    shapes = []

    def record(module, inputs):
        shapes.append(inputs[0].shape)

    transformer = engine.text_to_image.transformer
    handle = transformer.register_forward_pre_hook(record)
    job = make_queue(engine).submit(REQUESTS[name], "ann")
    progress = [event for event in job.stream_events() if hasattr(event, "total")]
    handle.remove()
    assert isinstance(job.last_event, Done), job.last_event
    rows = [shape[0] * (shape[2] if len(shape) == 5 else 1) for shape in shapes]
    work = job.request.list_work(engine.capabilities)
    assert sum(each.num_passes * each.num_frames * each.num_steps for each in work) == sum(rows)
    assert {event.total for event in progress} == {sum(each.num_steps for each in work)}


def test_continued_frames_take_their_own_default_steps(engine):
    request = TextToVideoRequest(prompt="cat", num_frames=10).with_defaults(engine.capabilities)
    image_steps, num_windows, window_frames = 2, 3, 4
    frames = [each.num_frames * each.num_steps for each in request.list_work(engine.capabilities)]
    assert frames == [image_steps, *[window_frames] * num_windows]


def test_an_animation_takes_the_steps_that_are_requested_even_those_of_an_image(engine):
    requests = [ImageToVideoRequest(**ANIMATION, num_inference_steps=steps) for steps in (None, 2)]
    assert [request.with_defaults(engine.capabilities).num_inference_steps for request in requests] == [1, 2]


@pytest.mark.parametrize(("size", "expected"), [((1600, 900), (80, 48)), ((300, 400), (48, 64)), ((64, 64), (64, 64))])
def test_an_animation_has_the_aspect_of_its_image_without_a_warning(engine, size, expected):
    capabilities = replace(engine.capabilities, default_size_px=64, size_multiple_px=16)
    region = Region(motion="jump", points=[Point(x=9, y=9)])
    request = ImageToVideoRequest(image=Image.new("RGB", size), regions=[region]).with_defaults(capabilities)
    assert (request.width, request.height) == expected
    assert request.list_warnings(capabilities) == []
    fixed = ImageToVideoRequest(image=Image.new("RGB", size), regions=[region], width=160)
    assert fixed.with_defaults(capabilities).width == 160
