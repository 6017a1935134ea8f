"""MCP: an agent calls the work of each tab, with the client of the MCP package."""

import base64
import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.pipelines.media.video_reading import read_video
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.warped_image import make_warped_image
from tests.demo.page.mcp_client import call_tool, send

pytestmark = pytest.mark.timeout(600)  # the machine may be busy


@pytest.fixture(scope="module")
def call(mcp_address):
    return partial(call_tool, mcp_address)


@pytest.fixture(scope="module")
def generated(call):
    return call("image", prompt="a cat on the grass", num_inference_steps=6, seed=5)


def open_image(content):
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def test_each_tab_has_a_tool_whose_arguments_are_described(mcp_address):
    tools = {tool.name: tool for tool in send(mcp_address, lambda session: session.list_tools()).tools}
    assert set(tools) == {"image", "edit", "variations", "mask", "animate", "video", "chat"}
    for tool in tools.values():
        assert tool.description
        assert all(argument["description"] for argument in tool.inputSchema["properties"].values())
    assert tools["image"].inputSchema["required"] == ["prompt"]
    point_schema = {"type": "array", "items": {"type": "number"}}
    assert tools["mask"].inputSchema["properties"]["points"]["items"] == point_schema
    region = tools["animate"].inputSchema["properties"]["regions"]["items"]["properties"]
    assert region["points"]["items"] == region["path"]["items"] == point_schema
    assert {"turn", "scale", "times", "anchor", "target"} <= set(region)
    assert {"refine", "video_model", "strict_background"} <= set(tools["animate"].inputSchema["properties"])
    assert "video_model" in tools["video"].inputSchema["properties"]


def test_an_image_comes_with_its_settings_and_label(generated):
    image, address = generated.content
    assert image.mimeType == "image/png"
    with open_image(image) as decoded:
        assert decoded.size == (128, 128)
        assert decoded.text["seed"] == "5"
        assert "AIGC" in decoded.info["xmp"].decode()
    assert address.text.endswith(".png")


def test_every_requested_image_is_returned(call):
    contents = call("image", prompt="a cat", num_inference_steps=1, num_images=2).content
    assert [content.type for content in contents] == ["image", "text", "image", "text"]


def test_an_edit_and_variations_come_as_images(call, generated):
    picture = generated.content[0].data
    common = {"image": picture, "num_inference_steps": 2, "seed": 3}
    edited = call("edit", prompt="a dog", words="cat", **common)
    varied = call("variations", num_images=2, **common)
    assert [content.type for content in (*edited.content, *varied.content)] == ["image", "text"] * 3
    with open_image(edited.content[0]) as image:
        assert image.size == (128, 128)
    assert edited.content[0].data != picture


def test_points_give_a_mask(call, generated):
    image = call("mask", image=generated.content[0].data, points=[[64, 64]], labels=[1]).content[0]
    with open_image(image) as mask:
        assert np.asarray(mask)[64, 64] == 255


def test_an_animation_comes_as_a_sticker_and_as_files(call, generated):
    regions = [{"points": [[64, 64]], "motion": "jump"}]
    contents = call(
        "animate", image=generated.content[0].data, regions=regions, num_frames=2, num_inference_steps=2
    ).content
    with open_image(next(content for content in contents if content.type == "image")) as sticker:
        assert sticker.n_frames == 2
    suffixes = [content.text.rpartition(".")[2] for content in contents if content.type == "text"]
    assert suffixes == ["mp4", "webp", "gif"]


def test_a_path_gives_the_frames_of_python(call, tmp_path):
    """A path excludes the transformer, and a published model that is not served is refused by its name."""
    pixels = np.full((60, 90, 3), (200, 210, 220), np.uint8)
    pixels[22:38, 12:28] = (200, 30, 30)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    path, times = [[20, 30], [50, 20], [70, 30]], [0, 0.8, 1]
    arguments = {
        "image": base64.b64encode(picture.getvalue()).decode(),
        "regions": [{"points": [[20, 30]], "path": path, "times": times}],
        "num_frames": 4,
    }
    result = call("animate", refine="off", **arguments)
    sticker = next(content for content in result.content if content.type == "image")
    (tmp_path / "mcp.webp").write_bytes(base64.b64decode(sticker.data))
    region = Region(points=[Point(x=20, y=30)], path=path, times=times)
    frames = make_warped_image(Image.fromarray(pixels), [region], num_frames=4).frames
    metadata = GenerationMetadata(prompt="", seed=0, settings={}, model="sticker", version="0")
    save_video(frames, tmp_path / "python.webp", metadata, fps=8, producer=None)
    expected = read_video(tmp_path / "python.webp").frames
    np.testing.assert_array_equal(read_video(tmp_path / "mcp.webp").frames, expected)
    for refused, reason in (({"refine": "on"}, "refine"), ({"video_model": "nobody"}, "nobody")):
        answer = call("animate", **arguments, **refused)
        assert answer.isError
        assert reason in answer.content[0].text


def test_a_conversation_continues_when_it_is_sent_back(call):
    first = json.loads(call("chat", text="a cat").content[-1].text)
    image, _, text = call("chat", text="on the beach", conversation=first["conversation"]).content
    assert image.type == "image"
    assert "beach" in json.loads(text.text)["prompt"]


def test_an_error_is_in_the_language_of_the_agent(call):
    result = call("image", headers={"Accept-Language": "zh-CN"}, prompt="a cat", num_inference_steps=0)
    assert result.isError
    assert "请填写 1 到 1000 之间的整数" in result.content[0].text
