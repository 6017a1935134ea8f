"""Requests as other programs send them, recorded from their releases or read from their source.

- LiteLLM 1.110.2 (github.com/BerriAI/litellm: litellm/images/main.py, litellm/llms/openai/videos/transformation.py),
  recorded from `litellm.image_generation`, `video_generation`, `video_status`, `video_content` and `video_list`.
- Open WebUI (github.com/open-webui/open-webui: `image_generations` and `get_image_data` in
  backend/open_webui/routers/images.py; `verify_connection` in routers/openai.py).
- openai 3.57.0, what `videos.create` makes of nested values in a form.
"""

import base64
import json
import time

import openai
import pytest

from dianjing.demo.engine import InferenceEngine
from dianjing.pipelines.media.video import read_video_metadata

UNFINISHED = ("queued", "in_progress")
ALIASES = ("gpt-image-1", "dall-e-2", "sora-2")
KEY = {"Authorization": "Bearer a-long-key"}
IMAGE_BODIES = {
    "LiteLLM, nothing but a prompt": b'{"model":"gpt-image-1","prompt":"a cat"}',
    "LiteLLM, all that it passes on": b'{"model":"gpt-image-1","prompt":"a cat","background":"auto","moderation":"low",'
    b'"n":2,"output_compression":80,"output_format":"webp","quality":"high","size":"64x64","user":"u"}',
    "LiteLLM, extra_body": b'{"model":"gpt-image-1","prompt":"a cat","seed":1}',
    "Open WebUI": b'{"model": "dall-e-2", "prompt": "a cat", "n": 1, "size": "64x64", "response_format": "b64_json"}',
    "Open WebUI, size auto": b'{"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "auto"}',
    "Open WebUI, own parameters": b'{"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "64x64",'
    b' "response_format": "b64_json", "quality": "standard", "style": "natural"}',
}
BOUNDARY = "764d2523a240bc4fb511936fbf2debd4"


def make_form(*parts):
    """A form as httpx writes it: (name, value) or (name, value, file name, type)."""
    lines = b""
    for name, value, *file in parts:
        head = f'Content-Disposition: form-data; name="{name}"'
        if file:
            head += f'; filename="{file[0]}"\r\nContent-Type: {file[1]}'
        content = value if isinstance(value, bytes) else value.encode()
        lines += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    headers = {**KEY, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return {"content": lines + f"--{BOUNDARY}--\r\n".encode(), "headers": headers}


@pytest.fixture
def client(make_client, tiny_engine):
    return make_client(tiny_engine, keys=("a-long-key",), aliases=ALIASES)


def wait_for_video(client, video_id, headers=KEY):
    while (video := client.get(f"/v1/videos/{video_id}", headers=headers).json())["status"] in UNFINISHED:
        time.sleep(0.02)
    return video


@pytest.mark.parametrize("name", IMAGE_BODIES)
def test_requests_for_images_are_answered(client, name):
    headers = {**KEY, "Content-Type": "application/json"}
    response = client.post("/v1/images/generations", content=IMAGE_BODIES[name], headers=headers)
    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == json.loads(IMAGE_BODIES[name]).get("n", 1)
    assert all(base64.b64decode(entry["b64_json"]) for entry in response.json()["data"])


def test_open_webui_fetches_an_address_with_the_headers_of_its_request(client):
    body = {"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "64x64", "response_format": "url"}
    response = client.post("/v1/images/generations?api-version=2024-02-01", json=body, headers=KEY)
    [entry] = response.json()["data"]
    assert "b64_json" not in entry
    image = client.get(entry["url"], headers=KEY)
    assert image.headers["content-type"].split("/")[0] == "image"
    assert client.get("/v1/models", headers=KEY).json()["object"] == "list"


def test_litellms_requests_for_videos_are_answered(client):
    form = make_form(
        ("model", "sora-2"), ("prompt", "a dog jumping"), ("seconds", "1"), ("size", "64x64"), ("user", "u")
    )
    created = client.post("/v1/videos", **form)
    assert created.status_code == 200, created.text
    video = wait_for_video(client, created.json()["id"])
    assert (video["status"], video["size"], video["object"]) == ("completed", "64x64", "video")
    float(video["seconds"])  # LiteLLM computes its cost from it
    content = client.get(f"/v1/videos/{video['id']}/content", headers=KEY)
    assert content.content[4:8] == b"ftyp"
    listed = client.get("/v1/videos?limit=5&order=desc", headers=KEY).json()
    assert [entry["id"] for entry in listed["data"]] == [video["id"]]


def test_a_form_without_files_may_be_url_encoded(client):
    response = client.post("/v1/videos", data={"prompt": "a dog", "seconds": "1", "model": "sora-2"}, headers=KEY)
    assert response.request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("file_name", ["input_reference.png", "/folder/x.png"])
def test_litellms_reference_image_is_read(client, square, file_name):
    """The tiny model knows no motions by name, and says so: it has seen the image and the prompt."""
    form = make_form(
        ("model", "sora-2"),
        ("prompt", "a dog jumping"),
        ("input_reference", base64.b64decode(square), file_name, "image/png"),
    )
    response = client.post("/v1/videos", **form)
    assert response.status_code == 400
    assert "knows no motions by name" in response.json()["error"]["message"]


def test_a_reference_in_a_nested_field_of_a_form_is_read(client, square):
    regions = json.dumps([{"motion": "jump", "points": [{"x": 16, "y": 16}]}])
    form = make_form(("input_reference[image_url]", f"data:image/png;base64,{square}"), ("regions", regions))
    assert client.post("/v1/videos", **form).status_code == 200
    form = make_form(("input_reference[file_id]", "file-123"), ("prompt", "a dog jumping"))
    assert "input_reference.file_id" in client.post("/v1/videos", **form).json()["error"]["message"]


def test_a_reference_in_json_is_read(client, square):
    regions = [{"motion": "jump", "points": [{"x": 16, "y": 16}]}]
    for reference in (square, {"image_url": square}, {"image_url": f"data:image/png;base64,{square}"}):
        response = client.post("/v1/videos", json={"input_reference": reference, "regions": regions}, headers=KEY)
        assert response.status_code == 200, response.text


def test_regions_as_fields_in_brackets_are_refused_with_the_way_out(client):
    form = make_form(("prompt", "a"), ("regions[][motion]", "jump"), ("regions[][points][][x]", "3"))
    error = client.post("/v1/videos", **form).json()["error"]
    assert error["message"].startswith("regions is given as single fields of a form; send it as JSON text")
    assert error["param"] == "regions"


def test_what_moves_in_a_reference_image_is_found_from_the_prompt(make_client, tmp_path):
    """The file of the bundled model says which region was found, so that it can be made again."""
    engine = InferenceEngine.from_pretrained("sticker")
    client = make_client(engine)
    api = openai.OpenAI(api_key="mine", base_url="http://testserver/v1", http_client=client, max_retries=0)
    image = api.images.generate(prompt="a cat on the grass", extra_body={"seed": 1}).data[0]
    reference = ("cat.png", base64.b64decode(image.b64_json), "image/png")
    options = {"num_frames": 2, "num_inference_steps": 1}
    video = api.videos.create(prompt="a cat jumping", input_reference=reference, extra_body=options)
    assert wait_for_video(client, video.id, headers={"Authorization": "Bearer mine"})["status"] == "completed"
    path = tmp_path / "cat.mp4"
    path.write_bytes(api.videos.download_content(video.id).read())
    [region] = read_video_metadata(path)[0].settings["regions"]
    assert region["motion"] == "jumping"
    with pytest.raises(openai.BadRequestError, match="name a thing and a motion"):
        api.videos.create(prompt="a cat", input_reference=reference)
