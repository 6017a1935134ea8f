"""What an OpenAI client asks is answered as it expects; every job is its owner's."""

import base64
import io
import json
import re
import time
from dataclasses import replace

import openai
import pytest
from PIL import Image

from dianjing.demo.requests import TextToImageRequest
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata

CLICK = {"motion": "jump", "strength": 0.7, "points": [{"x": 16, "y": 16}, {"x": 2, "y": 2, "positive": False}]}


def finished(client, video, **how):
    """Ask until it is over."""
    end_s = time.monotonic() + 60
    while (video := client.get(f"/v1/videos/{video['id']}", **how).json())["status"] in ("queued", "in_progress"):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return video


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_pictures_come_in_base64_with_their_settings_and_label(client, tmp_path):
    asked = {"prompt": "cat", "n": 2, "size": "32x32", "seed": 7, "num_inference_steps": 2, "guidance_scale": 2}
    answer = client.post("/v1/images/generations", json=asked)
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [picture["seed"] for picture in data] == [7, 8]
    for picture in data:
        content = base64.b64decode(picture["b64_json"])
        (tmp_path / "picture.png").write_bytes(content)
        record = read_image_metadata(tmp_path / "picture.png")
        assert (record.prompt, record.seed) == ("cat", picture["seed"])
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (32, 32)
            assert "AIGC" in image.text[XMP_KEY]
    again = client.post("/v1/images/generations", json=asked).json()["data"]
    assert again == data


def test_pictures_handed_over_leave_nothing_behind(client):
    client.post("/v1/images/generations", json={"prompt": "cat"})
    assert list(client.queue.results.root.iterdir()) == []


def test_openais_own_client_draws_and_films(client):
    api = openai.OpenAI(api_key="mine", base_url="http://testserver/v1", http_client=client)
    pictures = api.images.generate(model=client.queue.engine.capabilities.model, prompt="cat", n=2, size="32x32")
    assert len(pictures.data) == 2
    assert pictures.data[0].b64_json
    video = api.videos.create(prompt="cat", seconds="1", size="32x32")
    while video.status in ("queued", "in_progress"):
        time.sleep(0.02)
        video = api.videos.retrieve(video.id)
    assert (video.status, video.progress, video.size) == ("completed", 100, "32x32")
    assert b"ftyp" in api.videos.download_content(video.id).read()[:16]
    assert api.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        api.videos.retrieve(video.id)


def test_a_click_moves_a_picture_sent_as_json(client, square):
    asked = {"image": square, "regions": [CLICK], "num_frames": 3, "fps": 6, "seed": 1}
    video = finished(client, client.post("/v1/videos", json=asked).json())
    assert (video["status"], video["num_frames"], video["seconds"]) == ("completed", 3, "0.5")
    for variant, head in {"video": b"ftyp", "webp": b"WEBP", "gif": b"GIF8"}.items():
        answer = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert answer.status_code == 200
        assert head in answer.content[:16]


def test_a_click_moves_a_picture_sent_as_a_file(client, square):
    form = {"regions": '[{"motion": "jump", "points": [{"x": 16, "y": 16}]}]', "num_frames": "3", "seed": "1"}
    files = {"input_reference": ("../../picture.png", base64.b64decode(square), "image/png")}
    answer = client.post("/v1/videos", data=form, files=files)
    assert answer.status_code == 200, answer.text
    assert finished(client, answer.json())["status"] == "completed"


def test_the_same_film_comes_from_a_data_url(client, square):
    asked = {"regions": [CLICK], "num_frames": 2, "seed": 1}
    contents = []
    for image in (square, f"data:image/png;base64,{square}"):
        video = finished(client, client.post("/v1/videos", json={**asked, "image": image}).json())
        contents.append(client.get(f"/v1/videos/{video['id']}/content", params={"variant": "webp"}).content)
    assert contents[0] == contents[1]


def test_a_film_that_is_not_finished_has_no_content_yet(make_client, counting):
    counting.capabilities = replace(counting.capabilities, num_frames=4)
    client = make_client(counting)
    counting.gate.clear()
    video = client.post("/v1/videos", json={"prompt": "cat"}).json()
    assert video["status"] in ("queued", "in_progress")
    answer = client.get(f"/v1/videos/{video['id']}/content")
    assert answer.status_code == 409
    assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
    assert client.get(f"/v1/videos/{video['id']}").status_code == 404


def test_a_picture_model_refuses_films_clearly(make_client, image_engine, square):
    client = make_client(image_engine)
    for asked in ({"prompt": "cat"}, {"image": square, "regions": [CLICK]}):
        answer = client.post("/v1/videos", json=asked)
        assert answer.status_code == 400
        assert "draws pictures only" in answer.json()["error"]["message"]


@pytest.mark.parametrize("how", ["keys", "tokens"])
def test_nobody_reads_or_deletes_the_job_of_another(make_client, tiny_engine, how):
    client = make_client(tiny_engine, keys=("ann", "bob") if how == "keys" else ())
    mine, theirs = {"headers": bearer("ann")}, {"headers": bearer("bob")}
    video = client.post("/v1/videos", json={"prompt": "cat", "num_frames": 2}, **mine).json()
    place = f"/v1/videos/{video['id']}"
    assert finished(client, video, **mine)["status"] == "completed"
    missing = client.get("/v1/videos/video_0", **theirs)
    for answer in (
        client.get(place, **theirs),
        client.get(f"{place}/content", **theirs),
        client.delete(place, **theirs),
    ):
        assert (answer.status_code, answer.json()) == (404, missing.json())
    assert client.get(f"{place}/content", **theirs).status_code == 404
    assert client.get(f"{place}/content", **mine).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic !!"}, bearer("钥".encode())]
)
def test_without_a_right_key_nothing_is_drawn(make_client, counting, headers):
    client = make_client(counting, keys=("right",))
    for answer in (
        client.post("/v1/images/generations", json={"prompt": "cat"}, headers=headers),
        client.get("/v1/videos/video_0", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
    assert counting.began == []
    assert client.post("/v1/images/generations", json={"prompt": "cat"}, headers=bearer("right")).status_code == 200


def test_the_pages_user_may_use_the_api_too(make_client, counting):
    client = make_client(counting, auth=("ann", "secret"))
    asked = {"json": {"prompt": "cat"}}
    assert client.post("/v1/images/generations", **asked).status_code == 401
    assert client.post("/v1/images/generations", auth=("ann", "guess"), **asked).status_code == 401
    assert client.post("/v1/images/generations", auth=("ann", "secret"), **asked).status_code == 200


def test_a_full_queue_is_a_429_that_says_its_length(make_client, counting):
    client = make_client(counting, max_queue_length=1)
    counting.gate.clear()
    first = client.queue.submit(TextToImageRequest(prompt="first"), "ann")
    while first.state == "queued":
        time.sleep(0.005)
    client.queue.submit(TextToImageRequest(prompt="second"), "ann")
    answer = client.post("/v1/images/generations", json={"prompt": "cat"}, headers={"Accept-Language": "zh-CN"})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]
    assert answer.json()["error"]["message"] == "已有 1 个请求在排队，队列已满；请一分钟后再试"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (MemoryError(), 503, "ask for a smaller size"),
        (KeyError("/srv/secret/model.bin"), 500, "the server failed"),
        (ValueError("the picture in /srv/secret/model.bin is odd"), 400, "the picture in ... is odd"),
    ],
)
def test_a_failed_run_says_what_to_do_and_nothing_of_the_server(make_client, counting, error, status, says):
    client = make_client(counting)
    counting.error = error
    answer = client.post("/v1/images/generations", json={"prompt": "cat"})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    counting.error = None
    assert client.post("/v1/images/generations", json={"prompt": "cat"}).status_code == 200


def test_health_and_metrics_tell_how_it_goes(make_client, counting):
    client = make_client(counting)
    client.post("/v1/images/generations", json={"prompt": "cat"})
    assert client.get("/healthz").json() == {"status": "ok", "queue": 0}
    assert 'dianjing_requests_total{end="done",kind="image"} 1.0' in client.get("/metrics").text
    client.queue.close()
    assert client.get("/healthz").status_code == 503


def test_the_docs_show_every_address_and_fetch_nothing(client):
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page
    assert "左右摇摆" in client.get("/openapi.json").text


def test_every_reference_in_the_schema_leads_somewhere(client):
    schema = client.get("/openapi.json").json()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema)))
    assert "#/components/schemas/RegionSchema" in references
    for reference in references:
        found = schema
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_the_examples_of_the_docs_work(client):
    schemas = client.get("/openapi.json").json()
    [example] = schemas["components"]["schemas"]["ImageGenerationSchema"]["examples"]
    assert client.post("/v1/images/generations", json=example).status_code == 200
    for film in schemas["components"]["schemas"]["VideoSchema"]["examples"]:
        answer = client.post("/v1/videos", json=film)
        assert answer.status_code == 200, answer.text
        assert finished(client, answer.json())["status"] == "completed"
