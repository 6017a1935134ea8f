"""Each tab in a real browser, in both languages, and the layout of the page on a desktop and on a phone."""

import io
import json
import re
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video_metadata
from dianjing.pipelines.media.video_reading import read_video
from tests.demo.page.conftest import TIMEOUT_MS

pytestmark = pytest.mark.timeout(900)  # the machine may be busy

TEXTS = {
    "zh-CN": {
        "prompt": "草地上的一只小猫",
        "title": "点睛",
        "step": r"第 \d+ 步",
        "stopped": "已停止",
        "done": "已完成",
        "restored": "设置已恢复",
        "no_click": "还没有标点",
        "motions": ("跳", "摇摆"),
        "messages": ("画一只小猫", "背景换成沙滩", "右上角加一个红色的气球", "撤销"),
        "scene": "沙滩",
        "video": "一只小狗在向右走",
        "window": "第 {} 段，共 2 段",
    },
    "en-US": {
        "prompt": "a cat on the grass",
        "title": "Dianjing",
        "step": r"Step \d+ of",
        "stopped": "Stopped",
        "done": "Done",
        "restored": "settings are restored",
        "no_click": "has no click",
        "motions": ("jump", "sway"),
        "messages": ("draw a cat", "on the beach", "add a red balloon at the top right", "undo"),
        "scene": "beach",
        "video": "a cat jumping on the grass",
        "window": "window {} of 2",
    },
}
TABS = ("image", "animate", "video", "chat")


@contextmanager
def paused_runs(engine, get_event):
    """Let runs wait at their progress for the event that get_event(job, progress) returns, if any."""
    run = engine.run

    def paused_run(job, results, *, on_progress):
        def listen(progress):
            on_progress(progress)
            event = get_event(job, progress)
            assert event is None or event.wait(TIMEOUT_MS / 1000)

        return run(job, results, on_progress=listen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", paused_run)
        yield


def wait_for_cancel_at_preview(job, progress):
    return job.cancel_requested if progress.preview else None


def open_tab(page, name):
    page.get_by_role("tab").nth(TABS.index(name)).click()


def wait_for_status(page, tab, pattern):
    status = page.locator(f"#{tab}-status")
    try:
        status.filter(has_text=re.compile(pattern)).wait_for()
    except TimeoutError as error:
        raise AssertionError(f"the status of {tab} is {status.inner_text()!r}, not {pattern!r}") from error


def wait_for_count(page, selector, count):
    page.wait_for_function(f"document.querySelectorAll({json.dumps(selector)}).length == {count}")


def wait_for_playback(page, tab):
    page.wait_for_selector(f"#{tab}-video video")
    page.wait_for_function(f"document.querySelector('#{tab}-video video').currentTime > 0")


def read_image(path):
    with Image.open(path) as image:
        return np.asarray(image)


def read_pixels(page, selector):
    page.evaluate("selector => document.querySelector(selector).decode()", selector)
    with Image.open(io.BytesIO(page.locator(selector).screenshot())) as screenshot:
        return np.asarray(screenshot.convert("RGB"), int)


def click_on_image(page, x, y):
    """Click at a position from 0 to 1, and wait until the image shows the new mask."""
    image = page.locator("#animate-picture img")
    before = image.get_attribute("src")
    box = image.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {before!r}")


def generate_image(page, texts):
    page.fill("#image-prompt textarea", texts["prompt"])
    page.click("#image-button")
    wait_for_status(page, "image", texts["done"])


@pytest.mark.parametrize("locale", TEXTS)
def test_images_are_generated_stopped_restored_and_there_after_a_reload(locale, server, open_page, save_download):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    assert page.inner_text(".dj-title").strip() == texts["title"]
    page.fill("#image-prompt textarea", texts["prompt"])
    with paused_runs(server.engine, wait_for_cancel_at_preview):
        page.click("#image-button")
        wait_for_status(page, "image", texts["step"])
        page.wait_for_selector("#image-stage img")
        page.click("#image-cancel")
        wait_for_status(page, "image", texts["stopped"])
    wait_for_count(page, "#image-gallery .thumbnail-item img", 1)
    generate_image(page, texts)
    wait_for_count(page, "#image-gallery .thumbnail-item img", 2)
    file = save_download(page, "#image-download")
    metadata = read_image_metadata(file)
    assert metadata.prompt == texts["prompt"]
    page.fill("#image-prompt textarea", "")
    page.set_input_files("#image-drop input[type=file]", file)
    wait_for_status(page, "image", texts["restored"])
    assert page.input_value("#image-prompt textarea") == texts["prompt"]
    assert page.locator("#image-seed textarea, #image-seed input").first.input_value() == str(metadata.seed)
    page.click("#image-button")
    wait_for_count(page, "#image-gallery .thumbnail-item img", 3)
    wait_for_status(page, "image", texts["done"])
    assert np.array_equal(read_image(save_download(page, "#image-download")), read_image(file))
    page.reload()
    wait_for_count(page, "#image-gallery .thumbnail-item img", 3)


@pytest.mark.parametrize("locale", TEXTS)
def test_two_regions_of_an_image_are_animated(locale, server, open_page, save_download):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    generate_image(page, texts)
    page.click("#image-to-animate")
    page.wait_for_selector("#animate-picture img")
    page.click("#animate-button")
    wait_for_status(page, "animate", texts["no_click"])
    before = read_pixels(page, "#animate-picture img")
    click_on_image(page, 0.5, 0.5)
    change = read_pixels(page, "#animate-picture img") - before
    assert 0.02 < (change[..., 0] - change[..., 1] > 25).mean() < 0.7  # the mask is red
    page.click("#animate-add")
    page.wait_for_selector("#animate-motion-2 input")
    click_on_image(page, 0.1, 0.2)
    for number, motion in enumerate(texts["motions"], start=1):
        page.fill(f"#animate-motion-{number} input", motion)
        page.keyboard.press("Enter")
    page.click("#animate-button")
    wait_for_playback(page, "animate")
    metadata, label = read_video_metadata(save_download(page, "#animate-download-video"))
    assert [region["motion"] for region in metadata.settings["regions"]] == list(texts["motions"])
    assert label["Label"] == "1"
    with Image.open(save_download(page, "#animate-download-webp")) as sticker:
        assert sticker.n_frames == server.engine.capabilities.num_frames


@pytest.mark.parametrize("locale", TEXTS)
def test_a_video_is_generated_window_by_window(locale, server, open_page, save_download):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    open_tab(page, "video")
    page.fill("#video-prompt textarea", texts["video"])
    is_window_visible = {1: threading.Event(), 2: threading.Event()}
    with paused_runs(server.engine, lambda job, progress: is_window_visible[progress.window]):
        page.click("#video-button")
        for window, is_visible in is_window_visible.items():
            wait_for_status(page, "video", texts["window"].format(window))
            if window == 2:
                page.wait_for_selector("#video-stage img")
            is_visible.set()
    wait_for_playback(page, "video")
    video = save_download(page, "#video-download-video")
    metadata, label = read_video_metadata(video)
    assert metadata.prompt == texts["video"]
    assert label["Label"] == "1"
    frames = read_video(video).frames
    assert len(frames) == server.engine.capabilities.num_frames
    page.fill("#video-prompt textarea", "")
    page.set_input_files("#video-drop input[type=file]", video)
    wait_for_status(page, "video", texts["restored"])
    page.click("#video-button")
    wait_for_count(page, "#video-gallery .thumbnail-item", 2)
    assert np.array_equal(read_video(save_download(page, "#video-download-video")).frames, frames)


@pytest.mark.parametrize("locale", TEXTS)
def test_an_image_is_edited_by_messages(locale, server, open_page):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    open_tab(page, "chat")
    first = texts["messages"][0]
    page.fill("#chat-message textarea", first)
    with paused_runs(server.engine, wait_for_cancel_at_preview):
        page.click("#chat-button")
        page.wait_for_selector("#chat-stage img")
        page.click("#chat-cancel")
        wait_for_status(page, "chat", texts["stopped"])
    page.wait_for_function(f"document.querySelector('#chat-message textarea').value === {json.dumps(first)}")
    page.wait_for_selector("#chat-stage img")
    wait_for_count(page, "#chat-history .bot.message", 0)
    for text, count in zip(texts["messages"], (1, 2, 3, 2), strict=True):  # the last one is undo
        page.fill("#chat-message textarea", text)
        page.click("#chat-button")
        wait_for_count(page, "#chat-history .bot.message", count)
    assert texts["scene"] in page.inner_text("#chat-history")
    page.wait_for_selector("#chat-stage img")


@pytest.mark.parametrize("width", [1280, 390, 320], ids=["desktop", "phone", "narrow-phone"])
def test_nothing_is_cut_off(width, server, open_page):
    page = open_page(server.address, width=width)
    for name in TABS:
        open_tab(page, name)
        page.wait_for_selector(f"#{name}-button", state="visible")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        num_cut_off = page.evaluate(
            "w => [...document.querySelectorAll('button, input, textarea, label, h1, p')].filter(e => e.offsetParent)"
            ".map(e => e.getBoundingClientRect()).filter(r => r.width && (r.left < -1 || r.right > w + 1)).length",
            width,
        )
        assert num_cut_off == 0
