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
from dianjing.errors import DianjingError
from dianjing.pipelines.video import refinement

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
    "a refined animation": ImageToVideoRequest(**ANIMATION, refine="on"),
    "a long refined animation in other steps": ImageToVideoRequest(
        **ANIMATION, num_frames=6, num_inference_steps=2, refine="on"
    ),
    "an animation in a size of its own": ImageToVideoRequest(**ANIMATION, width=64, height=32),
    "an animation of a larger image": ImageToVideoRequest(**ANIMATION | {"image": Image.new("RGB", (64, 64))}),
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


@pytest.fixture(params=[0.0, 256.0], ids=["an autoencoder that shows none", "an autoencoder that shows all"])
def max_autoencoder_error(request, monkeypatch):
    """The bound by which images are refined where that is left to the model."""
    monkeypatch.setattr(refinement, "MAX_AUTOENCODER_ERROR", request.param)
    return request.param


@pytest.mark.parametrize("name", [name for name in REQUESTS if "animation" in name])
@pytest.mark.usefixtures("max_autoencoder_error")
def test_the_planned_work_of_an_animation_is_computed_whatever_the_autoencoder_shows(name, make_queue, engine):
    check_planned_work(REQUESTS[name], make_queue(engine), engine)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_planned_work_is_what_the_transformer_computes(name, make_queue, engine):
    work = check_planned_work(REQUESTS[name], make_queue(engine), engine)
    assert work or (engine.capabilities.has_flow_field and "animation" in name and "refined" not in name)


def test_a_moved_image_has_no_work_of_the_transformer(make_queue, engine):
    request = ImageToVideoRequest(**ANIMATION, num_frames=6, refine="off")
    if engine.capabilities.has_flow_field:
        assert check_planned_work(request, make_queue(engine), engine) == []
    else:
        with pytest.raises(DianjingError, match="no flow field"):
            make_queue(engine).submit(request, "ann")


def test_an_image_that_the_autoencoder_shows_is_refined_and_any_other_is_moved(engine, monkeypatch):
    is_refined = {}
    for maximum in (0.0, 256.0):
        monkeypatch.setattr(refinement, "MAX_AUTOENCODER_ERROR", maximum)
        is_refined[maximum] = [bool(fill_in(size, engine).list_work(engine.capabilities)) for size in (32, 64)]
    if engine.capabilities.has_flow_field:
        assert is_refined == {0.0: [False, False], 256.0: [True, False]}
    else:
        assert is_refined == {0.0: [True, True], 256.0: [True, True]}


def fill_in(size, engine):
    request = ImageToVideoRequest(**ANIMATION | {"image": Image.new("RGB", (size, size), "white")})
    return request.with_defaults(engine.capabilities)


def check_planned_work(request, queue, engine):
    """Run a request, compare what is planned with what the transformer computes, and return it."""
    shapes = []

    def record(module, inputs):
        shapes.append(inputs[0].shape)

    transformer = engine.text_to_image.transformer
    handle = transformer.register_forward_pre_hook(record)
    job = queue.submit(request, "ann")
    progress = [event for event in job.stream_events() if hasattr(event, "total")]
    handle.remove()
    assert isinstance(job.last_event, Done), job.last_event
    rows = [shape[0] * (shape[2] if len(shape) == 5 else 1) for shape in shapes]
    work = job.request.list_work(engine.capabilities)
    assert sum(each.num_passes * each.num_frames * each.num_steps for each in work) == sum(rows)
    assert {event.total for event in progress} == ({sum(each.num_steps for each in work)} if work else set())
    return work


def test_continued_frames_take_their_own_default_steps(engine):
    request = TextToVideoRequest(prompt="cat", num_frames=10).with_defaults(engine.capabilities)
    image_steps, num_windows, window_frames = 2, 3, 4
    frames = [each.num_frames * each.num_steps for each in request.list_work(engine.capabilities)]
    assert frames == [image_steps, *[window_frames] * num_windows]


def test_an_animation_takes_the_steps_that_are_requested_even_those_of_an_image(engine):
    requests = [ImageToVideoRequest(**ANIMATION, num_inference_steps=steps) for steps in (None, 2)]
    assert [request.with_defaults(engine.capabilities).num_inference_steps for request in requests] == [1, 2]


@pytest.mark.parametrize(("size", "expected"), [((1600, 900), (80, 48)), ((300, 400), (48, 64)), ((64, 64), (64, 64))])
def test_a_refined_animation_has_the_aspect_of_its_image_without_a_warning(engine, size, expected):
    capabilities = replace(engine.capabilities, default_size_px=64, size_multiple_px=16)
    animation = {"image": Image.new("RGB", size), "regions": ANIMATION["regions"], "refine": "on"}
    request = ImageToVideoRequest(**animation).with_defaults(capabilities)
    assert (request.width, request.height) == expected
    assert request.list_warnings(capabilities) == []
    assert ImageToVideoRequest(**animation, width=160).with_defaults(capabilities).width == 160


@pytest.mark.parametrize("size", [(1600, 900), (301, 400), (64, 64)])
def test_a_moved_image_keeps_its_size_without_a_warning(engine, size):
    region = Region(path=[(9, 9), (12, 9)], points=[Point(x=9, y=9)])
    animation = {"image": Image.new("RGB", size), "regions": [region]}
    request = ImageToVideoRequest(**animation).with_defaults(engine.capabilities)
    assert (request.width, request.height) == size
    assert request.list_warnings(engine.capabilities) == []
    assert ImageToVideoRequest(**animation, width=161).with_defaults(engine.capabilities).width == 161
