"""The HTTP API: OpenAI's client works with it, and every job belongs to its owner."""

import base64
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import openai
import pytest
from PIL import Image

from dianjing.demo.jobs import Progress
from dianjing.demo.requests import TextToImageRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.warped_image import make_warped_image

REGION = {"motion": "jump", "strength": 0.7, "points": [{"x": 16, "y": 16}, {"x": 2, "y": 2, "positive": False}]}


UNFINISHED = ("queued", "in_progress")


def wait_for_video(client, video, **options):
    """Poll the video until its job is finished, as clients do."""
    while (video := client.get(f"/v1/videos/{video['id']}", **options).json())["status"] in UNFINISHED:
        time.sleep(0.02)
    return video


def make_bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_images_come_in_base64_with_their_settings_and_label(client, tmp_path):
    body = {"prompt": "cat", "n": 2, "size": "32x32", "seed": 7, "num_inference_steps": 2, "guidance_scale": 2}
    response = client.post("/v1/images/generations", json=body)
    assert response.status_code == 200
    data = response.json()["data"]
    assert [image["seed"] for image in data] == [7, 8]
    for entry in data:
        content = base64.b64decode(entry["b64_json"])
        (tmp_path / "image.png").write_bytes(content)
        metadata = read_image_metadata(tmp_path / "image.png")
        assert (metadata.prompt, metadata.seed) == ("cat", entry["seed"])
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (32, 32)
            assert "AIGC" in image.text[XMP_KEY]
    again = client.post("/v1/images/generations", json=body).json()["data"]
    assert again == data


def test_images_leave_no_files_on_the_server(client):
    client.post("/v1/images/generations", json={"prompt": "cat"})
    assert list(client.job_queue.results.root.iterdir()) == []


def test_openais_own_client_generates_images_and_videos(client):
    api = openai.OpenAI(api_key="mine", base_url="http://testserver/v1", http_client=client)
    images = api.images.generate(model=client.job_queue.engine.capabilities.model, prompt="cat", n=2, size="32x32")
    assert len(images.data) == 2
    assert images.data[0].b64_json
    video = api.videos.create(prompt="cat", seconds="1", size="32x32")
    while video.status in UNFINISHED:
        time.sleep(0.02)
        video = api.videos.retrieve(video.id)
    assert (video.status, video.progress, video.size) == ("completed", 100, "32x32")
    assert b"ftyp" in api.videos.download_content(video.id).read()[:16]
    assert api.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        api.videos.retrieve(video.id)


def test_an_image_sent_as_json_is_animated(client, square):
    body = {"image": square, "regions": [REGION], "num_frames": 3, "fps": 6, "seed": 1}
    video = wait_for_video(client, client.post("/v1/videos", json=body).json())
    assert (video["status"], video["num_frames"], video["seconds"]) == ("completed", 3, "0.5")
    for variant, head in {"video": b"ftyp", "webp": b"WEBP", "gif": b"GIF8"}.items():
        response = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert response.status_code == 200
        assert head in response.content[:16]


def test_a_path_moves_an_image_at_its_own_size_and_gives_the_frames_of_python(client):
    image = Image.new("RGB", (90, 50), (200, 210, 220))
    image.paste((200, 30, 30), (30, 15, 50, 35))
    file = io.BytesIO()
    image.save(file, format="PNG")
    region = {"points": [{"x": 40, "y": 25}], "path": [[40, 25], [60, 20]], "turn": 30, "times": [0.2, 1]}
    body = {"image": base64.b64encode(file.getvalue()).decode(), "regions": [region], "num_frames": 3, "seed": 1}
    video = wait_for_video(client, client.post("/v1/videos", json=body).json())
    assert video["status"] == "completed", video
    content = client.get(f"/v1/videos/{video['id']}/content?variant=webp").content
    same = Region(points=[Point(x=40, y=25)], path=[(40, 25), (60, 20)], turn=30, times=[0.2, 1])
    expected = make_warped_image(image, [same], num_frames=3)
    with Image.open(io.BytesIO(content)) as made:
        assert (made.size, made.n_frames) == ((90, 50), 3)
        for index, frame in enumerate(expected.frames):
            made.seek(index)
            assert np.abs(np.asarray(made.convert("RGB")).astype(int) - frame).mean() < 6  # WebP is lossy


def test_an_image_sent_as_a_file_is_animated(client, square):
    form = {"regions": '[{"motion": "jump", "points": [{"x": 16, "y": 16}]}]', "num_frames": "3", "seed": "1"}
    files = {"input_reference": ("../../picture.png", base64.b64decode(square), "image/png")}
    response = client.post("/v1/videos", data=form, files=files)
    assert response.status_code == 200, response.text
    assert wait_for_video(client, response.json())["status"] == "completed"


def test_a_data_url_gives_the_same_video(client, square):
    body = {"regions": [REGION], "num_frames": 2, "seed": 1}
    contents = []
    for image in (square, f"data:image/png;base64,{square}"):
        video = wait_for_video(client, client.post("/v1/videos", json={**body, "image": image}).json())
        contents.append(client.get(f"/v1/videos/{video['id']}/content", params={"variant": "webp"}).content)
    assert contents[0] == contents[1]


def test_a_video_that_is_not_finished_has_no_content(make_client, counting):
    counting.capabilities = replace(counting.capabilities, num_frames=4)
    client = make_client(counting)
    counting.gate.clear()
    video = client.post("/v1/videos", json={"prompt": "cat"}).json()
    assert video["status"] in UNFINISHED
    response = client.get(f"/v1/videos/{video['id']}/content")
    assert response.status_code == 409
    assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
    assert client.get(f"/v1/videos/{video['id']}").status_code == 404


def test_a_model_without_motion_blocks_refuses_videos(make_client, image_engine, square):
    client = make_client(image_engine)
    for body in ({"prompt": "cat"}, {"image": square, "regions": [REGION]}):
        response = client.post("/v1/videos", json=body)
        assert response.status_code == 400
        assert "generates images only" in response.json()["error"]["message"]


@pytest.mark.parametrize("credentials", ["keys", "tokens"])
def test_nobody_reads_or_deletes_the_job_of_another(make_client, tiny_engine, credentials):
    client = make_client(tiny_engine, keys=("ann", "bob") if credentials == "keys" else ())
    ann, bob = {"headers": make_bearer("ann")}, {"headers": make_bearer("bob")}
    video = client.post("/v1/videos", json={"prompt": "cat", "num_frames": 2}, **ann).json()
    path = f"/v1/videos/{video['id']}"
    assert wait_for_video(client, video, **ann)["status"] == "completed"
    missing = client.get("/v1/videos/video_0", **bob)
    for response in (client.get(path, **bob), client.get(f"{path}/content", **bob), client.delete(path, **bob)):
        assert (response.status_code, response.json()) == (404, missing.json())
    assert client.get(f"{path}/content", **bob).status_code == 404
    assert client.get(f"{path}/content", **ann).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, make_bearer("wrong"), make_bearer(""), {"Authorization": "Basic !!"}, make_bearer("钥".encode())]
)
def test_without_a_valid_key_nothing_runs(make_client, counting, headers):
    client = make_client(counting, keys=("right",))
    for response in (
        client.post("/v1/images/generations", json={"prompt": "cat"}, headers=headers),
        client.get("/v1/videos/video_0", headers=headers),
    ):
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
    assert counting.started_prompts == []
    assert (
        client.post("/v1/images/generations", json={"prompt": "cat"}, headers=make_bearer("right")).status_code == 200
    )


def test_the_password_of_the_page_is_valid_for_the_api(make_client, counting):
    client = make_client(counting, auth=("ann", "secret"))
    body = {"json": {"prompt": "cat"}}
    assert client.post("/v1/images/generations", **body).status_code == 401
    assert client.post("/v1/images/generations", auth=("ann", "guess"), **body).status_code == 401
    assert client.post("/v1/images/generations", auth=("ann", "secret"), **body).status_code == 200


def test_a_full_queue_is_a_429_with_its_length(make_client, counting):
    client = make_client(counting, max_queue_length=1)
    counting.gate.clear()
    first = client.job_queue.submit(TextToImageRequest(prompt="first"), "ann")
    next(event for event in first.stream_events() if isinstance(event, Progress))
    client.job_queue.submit(TextToImageRequest(prompt="second"), "ann")
    response = client.post("/v1/images/generations", json={"prompt": "cat"}, headers={"Accept-Language": "zh-CN"})
    assert response.status_code == 429
    assert response.headers["Retry-After"]
    assert response.json()["error"]["message"] == "已有 1 个请求在排队，队列已满；请一分钟后再试"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError(), 503, "ask for a smaller size"),
        (KeyError("/srv/secret/model.bin"), 500, "the server failed"),
        (ValueError("zip() argument 2 is shorter in /srv/secret"), 500, "the server failed"),
        (DianjingError("disk_full", path="/srv/secret/model.bin"), 400, "the disk is full while ... is written"),
    ],
)
def test_a_failed_run_says_what_to_do_without_details_of_the_server(
    make_client, counting, caplog, error, status, message
):
    client = make_client(counting)
    counting.error = error
    response = client.post("/v1/images/generations", json={"prompt": "cat"})
    assert response.status_code == status
    assert message in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert ("Traceback" in caplog.text) == (status == 500)  # a fault of ours is logged
    counting.error = None
    assert client.post("/v1/images/generations", json={"prompt": "cat"}).status_code == 200


def test_a_fault_outside_a_run_is_a_500_with_a_logged_traceback(make_client, counting, caplog, monkeypatch):
    client = make_client(counting)
    monkeypatch.setattr(client.job_queue, "submit", lambda *_: dict(zip("ab", "a", strict=True)))
    response = client.post("/v1/images/generations", json={"prompt": "cat"}, headers={"Accept-Language": "zh"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.json()["error"]["message"].startswith("服务器处理这个请求时出错")
    assert "zip()" not in response.text
    assert "zip() argument 2 is shorter" in caplog.text


def test_health_and_metrics(make_client, counting):
    client = make_client(counting)
    client.post("/v1/images/generations", json={"prompt": "cat"})
    assert client.get("/healthz").json() == {"status": "ok", "queue": 0}
    assert 'dianjing_requests_total{end="done",kind="image"} 1.0' in client.get("/metrics").text
    client.job_queue.close()
    assert client.get("/healthz").status_code == 503


def test_the_docs_list_every_route_and_load_nothing(client):
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page
    assert "左右摇摆" in client.get("/openapi.json").text


def test_every_reference_in_the_schema_resolves(client):
    schema = client.get("/openapi.json").json()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema)))
    assert "#/components/schemas/RegionSchema" in references
    for reference in references:
        resolved = schema
        for part in reference.removeprefix("#/").split("/"):
            resolved = resolved[part]


def test_the_examples_of_the_docs_work(client):
    schemas = client.get("/openapi.json").json()
    [example] = schemas["components"]["schemas"]["ImageGenerationSchema"]["examples"]
    assert client.post("/v1/images/generations", json=example).status_code == 200
    for video in schemas["components"]["schemas"]["VideoSchema"]["examples"]:
        response = client.post("/v1/videos", json=video)
        assert response.status_code == 200, response.text
        assert wait_for_video(client, response.json())["status"] == "completed"
