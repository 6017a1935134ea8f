"""A request's cost is what the model then draws: each picture or frame in each step."""

import json
import shutil

import pytest
from PIL import Image

from dianjing import DiT, Point, Region
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Done
from dianjing.demo.progress import PreviewDecoder
from dianjing.demo.requests import ImageToVideoRequest, TextToImageRequest, TextToVideoRequest

ANIMATED = {"image": Image.new("RGB", (32, 32), "white"), "regions": [Region(motion="jump", points=[Point(x=9, y=9)])]}
REQUESTS = {
    "a picture": TextToImageRequest(prompt="cat"),
    "many pictures": TextToImageRequest(prompt="cat", num_images=9, num_inference_steps=3),
    "one frame": TextToVideoRequest(prompt="cat", num_frames=1),
    "one window": TextToVideoRequest(prompt="cat"),
    "windows": TextToVideoRequest(prompt="cat", num_frames=10),
    "windows in other steps": TextToVideoRequest(prompt="cat", num_frames=9, num_inference_steps=3),
    "all at once": TextToVideoRequest(prompt="cat", num_frames=9, long_video="joint"),
    "an animation": ImageToVideoRequest(**ANIMATED),
    "a long animation in other steps": ImageToVideoRequest(**ANIMATED, num_frames=6, num_inference_steps=2),
}


@pytest.fixture(scope="module", params=[False, True], ids=["without a motion field", "with a motion field"])
def engine(request, tiny_film_folder, tmp_path_factory):
    """Frames that go on from a picture take one step, a picture two."""
    folder = shutil.copytree(tiny_film_folder, tmp_path_factory.mktemp("models") / "quick")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"default_continuation_steps": 1, "default_continuation_guidance_scale": 1.0}
    (folder / "model_index.json").write_text(json.dumps(index))
    if request.param:
        plain = DiT.from_pretrained(folder / "transformer")
        DiT.from_config({**plain.config, "use_flow_field": True}).save_pretrained(folder / "transformer")
    return InferenceEngine.from_pretrained(str(folder))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_budget_counts_what_runs(name, make_queue, engine, monkeypatch):
    drawn = []
    monkeypatch.setattr(PreviewDecoder, "update", lambda self, step, latents: drawn.append(latents.shape))
    job = make_queue(engine).submit(REQUESTS[name], "ann")
    told = [event for event in job.stream_events() if hasattr(event, "total")]
    assert isinstance(job.last_event, Done), job.last_event
    counts = [shape[2] if len(shape) == 5 else shape[0] for shape in drawn]
    assert job.request.get_cost(engine.capabilities) == 32 * 32 * sum(counts)
    assert {event.total for event in told} <= {len(counts)}


def test_frames_that_go_on_from_a_picture_cost_as_few_steps_as_they_take(engine):
    asked = TextToVideoRequest(prompt="cat", num_frames=10).with_defaults(engine.capabilities)
    assert asked.get_cost(engine.capabilities) == 32 * 32 * (
        2 + 3 * 4 * 1
    )  # a picture, and three windows of four frames


def test_an_animation_takes_the_steps_it_is_asked_for_also_those_of_a_picture(engine):
    steps = [
        ImageToVideoRequest(**ANIMATED, num_inference_steps=n).with_defaults(engine.capabilities) for n in (None, 2)
    ]
    assert [asked.num_inference_steps for asked in steps] == [1, 2]
