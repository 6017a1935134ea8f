"""Agents call each tab's work by MCP, with a client of MCP's own."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.timeout(900)  # the machine may be busy


@pytest.fixture(scope="module")
def ask(agents_address):
    """What one request of a client gives; headers as it sends them."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def asked(request, headers):
        async with (
            streamablehttp_client(agents_address, headers=headers) as (incoming, outgoing, _),
            ClientSession(incoming, outgoing) as session,
        ):
            await session.initialize()
            return await request(session)

    return lambda request, headers=None: asyncio.run(asked(request, headers))


@pytest.fixture(scope="module")
def call(ask):
    def call(tool, headers=None, **arguments):
        return ask(lambda session: session.call_tool(tool, arguments), headers)

    return call


@pytest.fixture(scope="module")
def drawn(call):
    return call("image", prompt="a cat on the grass", num_inference_steps=6, seed=5)


def picture(content):
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def test_an_agent_finds_each_tabs_tool_and_reads_what_every_argument_means(ask):
    tools = {tool.name: tool for tool in ask(lambda session: session.list_tools()).tools}
    assert set(tools) == {"image", "mask", "animate", "video", "chat"}
    for tool in tools.values():
        assert tool.description
        assert all(argument["description"] for argument in tool.inputSchema["properties"].values())
    assert tools["image"].inputSchema["required"] == ["prompt"]
    a_point = {"type": "array", "items": {"type": "number"}}
    assert tools["mask"].inputSchema["properties"]["points"]["items"] == a_point
    region = tools["animate"].inputSchema["properties"]["regions"]["items"]["properties"]
    assert region["points"]["items"] == a_point


def test_an_agent_draws_and_gets_the_picture_with_its_settings_and_label(drawn):
    image, address = drawn.content
    assert image.mimeType == "image/png"
    with picture(image) as shown:
        assert shown.size == (64, 64)
        assert shown.text["seed"] == "5"
        assert "AIGC" in shown.info["xmp"].decode()
    assert address.text.endswith(".png")


def test_an_agent_gets_every_picture_it_asked_for(call):
    contents = call("image", prompt="a cat", num_inference_steps=1, num_images=2).content
    assert [content.type for content in contents] == ["image", "text", "image", "text"]


def test_an_agent_points_and_gets_a_mask(call, drawn):
    image = call("mask", image=drawn.content[0].data, points=[[32, 32]], labels=[1]).content[0]
    with picture(image) as mask:
        assert np.asarray(mask)[32, 32] == 255


def test_an_agent_animates_and_sees_it_move(call, drawn):
    regions = [{"points": [[32, 32]], "motion": "jump"}]
    contents = call(
        "animate", image=drawn.content[0].data, regions=regions, num_frames=2, num_inference_steps=2
    ).content
    with picture(next(content for content in contents if content.type == "image")) as sticker:
        assert sticker.n_frames == 2
    endings = [content.text.rpartition(".")[2] for content in contents if content.type == "text"]
    assert endings == ["mp4", "webp", "gif"]


def test_an_agent_talks_by_giving_the_conversation_back(call):
    told = json.loads(call("chat", text="a cat").content[-1].text)
    image, _, said = call("chat", text="on the beach", conversation=told["conversation"]).content
    assert image.type == "image"
    assert "beach" in json.loads(said.text)["prompt"]


def test_an_agent_is_told_what_was_wrong_in_its_language(call):
    answer = call("image", headers={"Accept-Language": "zh-CN"}, prompt="a cat", num_inference_steps=0)
    assert answer.isError
    assert "请给出 1 到 1000 的整数" in answer.content[0].text
