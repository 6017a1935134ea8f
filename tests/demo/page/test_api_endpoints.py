"""Endpoints for programs: the work of each tab by gradio_client, with plain arguments."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video_metadata

pytestmark = pytest.mark.timeout(600)  # the machine may be busy


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def image_file(client):
    """The file of a generated image."""
    files = client.predict("a cat on the grass", num_inference_steps=6, seed=5, api_name="/image")
    return Path(get_path(files[0]))


def get_path(file):
    return file["path"] if isinstance(file, dict) else file


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_an_image_comes_as_a_file_with_its_settings(image_file):
    metadata = read_image_metadata(image_file)
    assert (metadata.prompt, metadata.seed, metadata.settings["num_inference_steps"]) == ("a cat on the grass", 5, 6)


def test_points_give_a_mask(client, image_file):
    file = client.predict(encode(image_file), [[32, 32]], [1], api_name="/mask")
    mask = np.asarray(Image.open(get_path(file)))
    assert mask.shape == (64, 64)
    assert mask[32, 32] == 255
    assert 0 < (mask == 255).mean() < 1


def test_an_animation_comes_in_all_formats(client, image_file):
    regions = [{"points": [[32, 32]], "motion": "jump"}, {"points": [[4, 4]], "labels": [1], "motion": "sway"}]
    files = client.predict(
        encode(image_file), regions, num_frames=2, num_inference_steps=2, guidance_scale=1, api_name="/animate"
    )
    paths = [Path(get_path(file)) for file in files]
    assert [path.suffix for path in paths] == [".mp4", ".webp", ".gif"]
    metadata, _ = read_video_metadata(paths[0])
    assert [region["motion"] for region in metadata.settings["regions"]] == ["jump", "sway"]


def test_a_prompt_gives_a_video_in_three_formats(client):
    files = client.predict("a cat", seconds=0.25, num_inference_steps=2, guidance_scale=1, api_name="/video")
    assert len(files) == 3


def test_a_conversation_continues_when_it_is_sent_back(client):
    first = client.predict("a cat", api_name="/chat")
    second = client.predict("on the beach", conversation=first["conversation"], api_name="/chat")
    assert "beach" in second["prompt"]
    assert "cat" in second["prompt"]
    assert len(json.loads(second["conversation"])["turns"]) == 2
    assert Path(get_path(second["image"])).suffix == ".png"


def test_a_page_of_another_site_reaches_no_endpoint(address):
    import httpx

    own_origin = address.rstrip("/")
    for origin, status in (("https://evil.example", 403), ("null", 403), (own_origin, 200), (None, 200)):
        headers = {} if origin is None else {"Origin": origin}
        response = httpx.post(
            f"{address}gradio_api/call/mask", json={"data": ["", [], []]}, headers=headers, timeout=120
        )
        assert response.status_code == status
    assert httpx.get(address, headers={"Origin": "https://evil.example"}, timeout=120).status_code == 403


def test_an_error_is_in_the_language_of_the_program(address):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False, headers={"Accept-Language": "zh-CN"})
    with pytest.raises(AppError, match="请填写 1 到 1000 之间的整数"):
        client.predict("a cat", num_inference_steps=0, api_name="/image")
