"""Published video models of a server: listed by task, chosen by requests, loaded one at a time."""

import base64
import copy
import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.jobs import Job
from dianjing.demo.page.forecast import render_forecast
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.demo.results import ResultStore
from dianjing.demo.video_models import VideoModels
from dianjing.errors import DianjingError
from dianjing.pipelines.media.video_reading import read_video
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.published_cost import PublishedCostModel

WAN = "wan-2.2-ti2v"


@pytest.fixture(scope="module")
def engine(tiny_engine, published_folder):
    """The tiny engine with two published models."""
    models = VideoModels([str(published_folder(name)) for name in ("wan-2.1-t2v", WAN)])
    engine = copy.copy(tiny_engine)
    engine.video_models = models
    engine.capabilities = dataclasses.replace(tiny_engine.capabilities, video_models=models.models)
    return engine


def run(engine, request):
    """Run a request as the queue does; return the result, and the steps that were reported."""
    progress = []
    job = Job(request.with_defaults(engine.capabilities), owner="test")
    result = engine.run(job, ResultStore(), on_progress=progress.append)
    return result, progress


def get_steps(progress):
    return [(each.step, each.total) for each in progress]


def test_a_model_serves_the_tasks_that_it_has(engine):
    tasks = [(model.name, model.pipeline.task) for model in engine.capabilities.video_models]
    texts, images = "text-to-video", "image-to-video"
    assert tasks == [("wan-2.1-t2v", texts), ("wan-2.2-ti2v", texts), ("wan-2.2-ti2v", images)]
    with pytest.raises(DianjingError, match="no video model"):
        engine.capabilities.find_video_model("wan-2.1-t2v", "image-to-video")


def test_a_text_and_an_image_become_videos_of_the_chosen_model(engine):
    settings = {"video_model": WAN, "num_frames": 5, "width": 64, "height": 64, "num_inference_steps": 2, "seed": 3}
    result, progress = run(engine, TextToVideoRequest(prompt="a cat", **settings))
    assert get_steps(progress) == [(0, 2), (1, 2), (2, 2)]
    assert progress[1].preview.size == (64, 64)
    unfinished = progress[1].decode_images()
    assert [frame.size for frame in unfinished] == [(64, 64)] * 5
    assert np.asarray(unfinished[0]).std() > 0
    assert result.metadata[0].model == WAN
    mask = np.zeros((64, 64), bool)
    mask[4:16, 8:24] = True
    image = Image.fromarray(np.where(mask[..., None], (220, 30, 30), (128, 128, 128)).astype(np.uint8))
    region = Region(motion="move right", mask=mask)
    videos = {}
    for is_strict in (True, False):
        animation = ImageToVideoRequest(image=image, regions=[region], strict_background=is_strict, **settings)
        result, progress = run(engine, animation)
        assert progress[-1].step == progress[-1].total
        assert progress[-1].preview.size == (64, 64)
        assert result.metadata[0].settings["regions"]
        assert result.metadata[0].settings["strict_background"] is is_strict
        videos[is_strict] = read_video(result.files[1]).frames
    assert not np.array_equal(videos[True], videos[False])


def test_what_the_chosen_model_cannot_do_is_refused(engine):
    with pytest.raises(DianjingError, match="nearest numbers of frames: 5, 9"):
        TextToVideoRequest(prompt="a cat", video_model=WAN, num_frames=6).with_defaults(engine.capabilities)
    for options, message in (
        ({"width": 70, "height": 64}, "nearest size is 64x64"),
        ({"duration_s": 60}, "nearest numbers of frames: 125"),
        ({"long_video": "joint"}, "long_video has no meaning"),
        ({"continuation_steps": 3}, "continuation_steps has no meaning"),
        ({"adapters": {"style": 1.0}}, "adapters has no meaning"),
        ({"scheduler": "DDIMScheduler"}, "scheduler has no meaning"),
    ):
        with pytest.raises(DianjingError, match=message):
            TextToVideoRequest(prompt="a cat", video_model=WAN, **options).with_defaults(engine.capabilities)
    image, region = Image.new("RGB", (64, 64)), Region(motion="jump", points=[Point(x=3, y=3)])
    for options, message in (
        ({"regions": [region] * 17}, "17 regions"),
        ({"num_frames": 1}, "num_frames is 1"),
        ({"refine": "on"}, "refine has no meaning"),
        ({"height": 60, "width": 64}, "nearest size is 64x64"),
    ):
        request = ImageToVideoRequest(**{"image": image, "regions": [region], "video_model": WAN, **options})
        with pytest.raises(DianjingError, match=message):
            request.with_defaults(engine.capabilities)
    with pytest.raises(DianjingError, match="no video model nobody"):
        TextToVideoRequest(prompt="a cat", video_model="nobody").with_defaults(engine.capabilities)


@pytest.fixture
def slow_engine(engine, monkeypatch):
    """The engine on a machine that takes 100 s for a video of the default size, length and steps."""
    monkeypatch.setattr(engine.video_models, "cost_model", PublishedCostModel(flops_per_s=1.0))
    request = TextToVideoRequest(prompt="a cat", video_model=WAN).with_defaults(engine.capabilities)
    monkeypatch.setattr(engine.video_models.cost_model, "_flops_per_s", engine.predict_s(request) / 100)
    return engine


def test_the_page_says_before_a_run_how_long_the_chosen_model_takes(slow_engine):
    context = SimpleNamespace(engine=slow_engine, capabilities=slow_engine.capabilities)
    request = TextToVideoRequest(prompt="a cat", video_model=WAN).with_defaults(slow_engine.capabilities)
    assert "this takes about 2 min, by a rough estimate" in render_forecast(request, context, "en")
    assert "粗略的估计" in render_forecast(request, context, "zh")
    shorter = dataclasses.replace(request, num_frames=5, num_inference_steps=2)
    assert render_forecast(shorter, context, "en") == ""
    slow_engine.video_models.cost_model.add_run(
        slow_engine.capabilities.find_video_model(WAN, "text-to-video"), predicted_s=100, measured_s=120
    )
    corrected = render_forecast(request, context, "en")
    assert "this takes about" in corrected
    assert "estimate" not in corrected


def test_what_takes_far_longer_than_a_default_video_is_refused(slow_engine, make_queue, monkeypatch):
    queue = make_queue(slow_engine)
    monkeypatch.setattr(slow_engine, "run", lambda job, results, on_progress: None)
    model = slow_engine.capabilities.find_video_model(WAN, "text-to-video")
    request = TextToVideoRequest(prompt="a cat", video_model=WAN)
    assert queue.submit(request, "test").predicted_s == pytest.approx(100)
    with pytest.raises(DianjingError, match="at most 5 min are allowed") as error:
        queue.submit(dataclasses.replace(request, num_inference_steps=250), "test")
    assert "x".join(map(str, model.default_size)) in str(error.value).replace(" x ", "x")
    slow_engine.video_models.cost_model._flops_per_s /= 5  # a default video takes 500 s, and two of them are allowed
    assert queue.submit(request, "test").predicted_s == pytest.approx(500)
    with pytest.raises(DianjingError, match="at most 17 min are allowed"):
        queue.submit(dataclasses.replace(request, num_inference_steps=150), "test")


def test_one_pipeline_is_loaded_at_a_time(engine):
    text, _, image = engine.capabilities.video_models
    first = engine.video_models.load(text)
    assert engine.video_models.load(text) is first
    assert engine.video_models.load(image) is not first
    assert engine.video_models.load(text) is not first


def test_a_client_of_the_api_names_the_model(engine, make_queue, monkeypatch):
    from fastapi.testclient import TestClient

    from dianjing.demo.app import make_app

    queue = make_queue(engine)
    submitted = []

    def submit(request, owner):
        submitted.append(request.with_defaults(engine.capabilities))
        return Job(submitted[-1], owner=owner)

    monkeypatch.setattr(queue, "submit", submit)
    client = TestClient(make_app(queue))
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert listed[WAN]["tasks"] == ["text-to-video", "image-to-video"]
    reply = client.post("/v1/videos", json={"prompt": "a cat", "model": WAN})
    assert reply.json()["model"] == WAN
    assert submitted[0].video_model == WAN
    client.post("/v1/videos", json={"prompt": "a cat"})
    assert submitted[1].video_model is None
    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, format="PNG")
    free = {"model": WAN, "strict_background": False, "regions": [{"motion": "jump", "points": [{"x": 9, "y": 9}]}]}
    body = free | {"image": base64.b64encode(image.getvalue()).decode()}
    form = {"model": WAN, "strict_background": "false", "regions": json.dumps(free["regions"])}
    files = {"input_reference": ("a.png", image.getvalue(), "image/png")}
    for reply in (client.post("/v1/videos", json=body), client.post("/v1/videos", data=form, files=files)):
        assert reply.status_code == 200, reply.text
        assert submitted[-1].strict_background is False
    assert client.post("/v1/videos", json={"prompt": "a cat", "model": "nobody"}).status_code == 404
    for field, nearest in (({"size": "70x64"}, "nearest size is 64x64"), ({"num_frames": 8}, "5, 9")):
        reply = client.post("/v1/videos", json={"prompt": "a cat", "model": WAN, **field})
        assert reply.status_code == 400
        assert nearest in reply.text
