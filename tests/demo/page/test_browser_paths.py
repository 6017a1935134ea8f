"""Paths on the Animate tab in a real browser: a drag over the picture is the path of every other surface."""

import base64
import math
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from dianjing.cli import app
from dianjing.demo.page import region_events
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video_metadata, save_video
from dianjing.pipelines.media.video_reading import read_video
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.warped_image import make_warped_image
from tests.demo.page.browser import open_tab, read_pixels, wait_for_count, wait_for_playback, wait_until_idle

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
WIDTH, HEIGHT = 90, 60
DRAGGED = [(20 + 2 * step, 30 - 15 * math.sin(step / 8)) for step in range(25)]  # px of the image


@pytest.fixture
def picture(tmp_path):
    pixels = np.full((HEIGHT, WIDTH, 3), (200, 210, 220), np.uint8)
    pixels[22:38, 12:28] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def drag(page, points):
    """Drag a pointer over the picture along points in px of the image, and wait until the server has drawn the path."""
    image = page.locator("#animate-picture img")
    image.scroll_into_view_if_needed()
    before, box = image.get_attribute("src"), image.bounding_box()
    scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
    left, top = box["x"] + (box["width"] - scale * WIDTH) / 2, box["y"] + (box["height"] - scale * HEIGHT) / 2
    page.mouse.move(left + scale * points[0][0], top + scale * points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(left + scale * x, top + scale * y)
    page.mouse.up()
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {before!r}")


def generate_over_http(address, picture, region, settings):
    image = base64.b64encode(picture.read_bytes()).decode()
    body = {"image": image, "regions": [region], "num_frames": settings["num_frames"], "fps": settings["fps"]}
    videos = f"{address}v1/videos"
    with httpx.Client(timeout=120) as client:
        video = client.post(videos, json=body).json()
        while client.get(f"{videos}/{video['id']}").json()["status"] != "completed":
            time.sleep(0.05)
        return client.get(f"{videos}/{video['id']}/content", params={"variant": "webp"}).content


def generate_by_command(picture, region, settings, monkeypatch):
    clicks = ";".join(f"{point['x']},{point['y']}" for point in region["points"])
    option = f"click={clicks};path=" + " ".join(f"{x},{y}" for x, y in region["path"])
    option += ";times=" + " ".join(map(str, region["times"]))
    lengths = ["--num-frames", str(settings["num_frames"]), "--fps", str(settings["fps"])]
    out = picture.with_name("command.webp")
    command = ["dianjing", "animate", str(picture), "--region", option, *lengths, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 0
    return out.read_bytes()


def generate_in_python(picture, region, settings):
    points = [Point(**point) for point in region["points"]]
    lengths = {"num_frames": settings["num_frames"], "fps": settings["fps"]}
    with Image.open(picture) as image:
        warped = make_warped_image(
            image, [Region(points=points, path=region["path"], times=region["times"])], **lengths
        )
    out = picture.with_name("python.webp")
    metadata = GenerationMetadata(prompt="", seed=0, settings={}, model="sticker", version="0")
    save_video(warped.frames, out, metadata, fps=settings["fps"], producer=None)
    return out.read_bytes()


def test_a_dragged_path_gives_the_frames_of_http_command_and_python(
    server, open_page, save_download, picture, monkeypatch
):
    page = open_page(server.address)
    open_tab(page, "animate")
    page.wait_for_selector("#animate-picture input[type=file]", state="attached")
    page.set_input_files("#animate-picture input[type=file]", picture)
    page.wait_for_selector("#animate-picture img")
    before = read_pixels(page, "#animate-picture img")
    drag(page, DRAGGED)
    change = np.abs(read_pixels(page, "#animate-picture img") - before).max(axis=2)
    height, width = change.shape
    x, y = DRAGGED[12]  # on the curve, far from the object
    assert change[int(y / HEIGHT * height), int(x / WIDTH * width)] > 60
    assert change[: height // 8, : width // 4].max() < 30
    page.click("#animate-camera")
    wait_for_count(page, "#animate-region input", 2)
    drag(page, [(40, 40), (44, 44), (50, 50)])
    wait_for_count(page, "#animate-region input", 2)  # the camera's path is no further region
    page.click("#animate-remove")
    wait_for_count(page, "#animate-region input", 1)
    source = page.locator("#animate-picture img").get_attribute("src")
    page.click("#animate-pace input")
    page.click("[role=option] >> text=Faster and faster")
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {source!r}")
    page.click("#animate-button")
    wait_for_playback(page, "animate")
    wait_until_idle(page, "animate")
    file = save_download(page, "#animate-download-webp")
    settings = read_video_metadata(file)[0].settings
    [region] = settings["regions"]
    assert 3 <= len(region["path"]) < len(DRAGGED)
    steps = np.diff(region["times"]) / np.hypot(*np.diff(region["path"], axis=0).T)
    assert steps[0] > 2 * steps[-1]  # the first part of the way takes longer
    assert np.abs(np.array(region["path"])[[0, -1]] - np.array(DRAGGED)[[0, -1]]).max() < 0.6
    frames = read_video(file).frames
    assert not np.array_equal(frames[0], frames[-1])
    http_region = {name: region[name] for name in ("points", "path", "times")}
    for content in (
        generate_over_http(server.address, picture, http_region, settings),
        generate_by_command(picture, region, settings, monkeypatch),
        generate_in_python(picture, region, settings),
    ):
        copy = picture.with_name("copy.webp")
        copy.write_bytes(content)
        np.testing.assert_array_equal(read_video(copy).frames, frames)


def test_a_click_on_an_upload_that_the_server_has_not_answered_is_not_read_in_its_pixels(
    server, open_page, picture, monkeypatch
):
    """The browser shows a small upload in its own pixels until the server has enlarged it."""
    is_answered, decode = threading.Event(), region_events.decode_upload_with_alpha
    clicks = []

    def decode_later(*arguments):
        assert is_answered.wait(60)
        return decode(*arguments)

    def predict_mask(image, points, labels):
        clicks.extend(points)
        return np.zeros((HEIGHT, WIDTH), bool)

    monkeypatch.setattr(region_events, "decode_upload_with_alpha", decode_later)
    monkeypatch.setattr(server.engine, "predict_mask", predict_mask)
    page = open_page(server.address)
    open_tab(page, "animate")
    page.set_input_files("#animate-picture input[type=file]", picture)
    image = page.locator("#animate-picture img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    position = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(*position)
    is_answered.set()
    enlarged = "document.querySelector('#animate-picture img').naturalWidth >= 512"
    page.wait_for_function(enlarged)
    before = image.get_attribute("src")
    page.mouse.click(*position)
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {before!r}")
    assert len(clicks) == 1
    assert np.allclose(clicks[0], (WIDTH / 2, HEIGHT / 2), atol=2)


def test_a_video_requested_before_the_mask_of_a_click_is_there_waits_for_it(server, open_page, picture, monkeypatch):
    is_found, predict = threading.Event(), server.engine.predict_mask

    def predict_later(*arguments):
        assert is_found.wait(60)
        return predict(*arguments)

    monkeypatch.setattr(server.engine, "predict_mask", predict_later)
    page = open_page(server.address)
    open_tab(page, "animate")
    page.set_input_files("#animate-picture input[type=file]", picture)
    page.wait_for_function("document.querySelector('#animate-picture img')?.naturalWidth >= 512")
    page.fill("#animate-motion-1 input", "jump")
    page.keyboard.press("Enter")
    image = page.locator("#animate-picture img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.click("#animate-button")
    page.wait_for_timeout(500)
    is_found.set()
    wait_for_playback(page, "animate")
