"""MCP and HTTP with published video models of tiny random weights: one that takes an image, one that takes text."""

import base64
import io
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from dianjing.demo.video_models import VideoModels
from dianjing.pipelines.media.video_reading import read_video
from tests.demo.page.conftest import run_app
from tests.demo.page.mcp_client import call_tool

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
IMAGE_MODEL, TEXT_MODEL = "hunyuan-i2v-concat", "wan-2.1-t2v"
SETTINGS = {"num_frames": 5, "num_inference_steps": 2, "seed": 3}
SIZE_PX = 64


@pytest.fixture(scope="module")
def published_address(tiny_folder, published_folder):
    """A server whose own model generates images alone."""
    folders = [str(published_folder(name)) for name in (IMAGE_MODEL, TEXT_MODEL)]
    with run_app(tiny_folder, mcp=True, video_models=VideoModels(folders)) as server:
        yield server.address


@pytest.fixture(scope="module")
def picture():
    pixels = np.full((SIZE_PX, SIZE_PX, 3), 128, np.uint8)
    pixels[16:36, 8:28] = (220, 30, 30)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read_frames(content, path):
    path.write_bytes(content)
    return read_video(path).frames


def generate_by_mcp(address, tool, path, **arguments):
    """The frames of a tool."""
    result = call_tool(f"{address}gradio_api/mcp/", tool, **SETTINGS, **arguments)
    assert not result.isError, result.content[0].text
    sticker = next(content for content in result.content if content.type == "image")
    return read_frames(base64.b64decode(sticker.data), path)


def generate_by_http(address, path, **body):
    """The frames of a job."""
    with httpx.Client(base_url=address, timeout=120) as client:
        job = client.post("/v1/videos", json={**SETTINGS, **body}).json()
        while job["status"] in ("queued", "in_progress"):
            time.sleep(0.2)
            job = client.get(f"/v1/videos/{job['id']}").json()
        assert job["status"] == "completed", job
        return read_frames(client.get(f"/v1/videos/{job['id']}/content?variant=webp").content, path)


def test_a_published_model_makes_the_same_frames_by_mcp_and_http(published_address, picture, tmp_path):
    size = {"width": SIZE_PX, "height": SIZE_PX}
    region = {"motion": "move right", "path": [[18, 26], [40, 26]]}
    cases = {
        "animate": (
            {"image": picture, "prompt": "a cat", "regions": [{**region, "points": [[18, 26]]}]},
            {"image": picture, "prompt": "a cat", "regions": [{**region, "points": [{"x": 18, "y": 26}]}]},
            IMAGE_MODEL,
        ),
        "video": ({"prompt": "a cat"}, {"prompt": "a cat"}, TEXT_MODEL),
    }
    for tool, (arguments, body, model) in cases.items():
        frames = generate_by_mcp(
            published_address, tool, tmp_path / f"{tool}.webp", video_model=model, **size, **arguments
        )
        expected = generate_by_http(
            published_address, tmp_path / f"{tool}-http.webp", model=model, size=f"{SIZE_PX}x{SIZE_PX}", **body
        )
        assert frames.shape == (5, SIZE_PX, SIZE_PX, 3)
        np.testing.assert_array_equal(frames, expected)
    wrong = {"prompt": "a cat", "video_model": TEXT_MODEL, "num_frames": 6, **size}
    refused = call_tool(f"{published_address}gradio_api/mcp/", "video", **wrong)
    assert refused.isError
    assert "5, 9" in refused.content[0].text
