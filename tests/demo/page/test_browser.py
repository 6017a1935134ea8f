"""A visitor's whole way through the page, in a real browser, in both languages."""

import io
import json
import re
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from dianjing.demo.jobs import Job, Progress
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video, read_video_metadata
from dianjing.train.recipes.bundle import NUM_FRAMES
from tests.demo.page.conftest import PATIENCE_MS

pytestmark = pytest.mark.timeout(1200)  # both ways are long, and the machine may be busy

SAID = {
    "zh-CN": {
        "prompt": "草地上的一只小猫",
        "title": "点睛",
        "step": r"第 \d+ 步",
        "stopped": "停下了",
        "done": "好了",
        "back": "设置找回来了",
        "motions": ("跳", "摇摆"),
        "chat": ("画一只小猫", "背景换成沙滩", "右上角加一个红色的气球", "把它变小", "撤销"),
        "scene": "沙滩",
        "video": "一只小狗在向右走",
        "window": "第 {} 段，共 2 段",
        "need": "请在图上点一下",
    },
    "en-US": {
        "prompt": "a cat on the grass",
        "title": "Dianjing",
        "step": r"Step \d+ of",
        "stopped": "Stopped",
        "done": "Done",
        "back": "settings are back",
        "motions": ("jump", "sway"),
        "chat": ("draw a cat", "on the beach", "add a red balloon at the top right", "make it smaller", "undo"),
        "scene": "beach",
        "video": "a cat jumping on the grass",
        "window": "window {} of 2",
        "need": "has no click",
    },
}


def status(page, tab, pattern):
    """Wait until a tab's line says so."""
    line = page.locator(f"#{tab}-status")
    try:
        line.filter(has_text=re.compile(pattern)).wait_for()
    except TimeoutError as error:
        raise AssertionError(f"{tab} says {line.inner_text()!r}, and not {pattern!r}") from error


@contextmanager
def held(at, *, at_most_s=PATIENCE_MS / 1000):
    """Runs wait while `at` holds of what they tell, or until they are stopped: the visitor sees it on any machine."""
    own, is_over = Job.publish, threading.Event()

    def tell(job, event):
        own(job, event)
        latest_s = time.monotonic() + at_most_s
        while isinstance(event, Progress) and at(event) and time.monotonic() < latest_s:
            if job.cancel_requested.is_set() or is_over.wait(0.01):
                break

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "publish", tell)
        try:
            yield
        finally:
            is_over.set()


def draw(page, said):
    """Previews, a stop that keeps the last, then a whole picture."""
    page.fill("#image-prompt textarea", said["prompt"])
    with held(lambda progress: progress.preview):
        page.click("#image-button")
        status(page, "image", said["step"])
        page.wait_for_selector("#image-stage img")
        page.click("#image-cancel")
        status(page, "image", said["stopped"])
    page.wait_for_selector("#image-gallery .thumbnail-item img")
    page.wait_for_selector("#image-stage img")
    page.click("#image-button")
    status(page, "image", said["done"])
    page.wait_for_function("document.querySelectorAll('#image-gallery .thumbnail-item img').length == 2")


def pixels_of(page, selector):
    page.evaluate("s => document.querySelector(s).decode()", selector)
    with Image.open(io.BytesIO(page.locator(selector).screenshot())) as seen:
        return np.asarray(seen.convert("RGB"), int)


def click_on(page, x, y):
    """At shares of the picture; wait until its mask is drawn."""
    image = page.locator("#animate-picture img")
    before = image.get_attribute("src")
    box = image.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {before!r}")


def play(page, tab):
    """Wait until a tab's film runs."""
    page.wait_for_selector(f"#{tab}-video video")
    page.wait_for_function(f"document.querySelector('#{tab}-video video').currentTime > 0")


def animate(page, said, save_download):
    """The picture of Draw, two regions, a film, and its files."""
    page.click("#image-to-animate")
    page.wait_for_selector("#animate-picture img")
    page.click("#animate-button")
    status(page, "animate", said["need"])
    plain = pixels_of(page, "#animate-picture img")
    click_on(page, 0.5, 0.5)
    masked = pixels_of(page, "#animate-picture img")
    reddened = (masked - plain)[..., 0] - (masked - plain)[..., 1] > 25
    assert 0.02 < reddened.mean() < 0.7
    page.click("#animate-add")
    page.wait_for_selector("#animate-motion-2 input")
    click_on(page, 0.1, 0.2)
    for number, motion in enumerate(said["motions"], start=1):
        page.fill(f"#animate-motion-{number} input", motion)
        page.keyboard.press("Enter")
    page.click("#animate-button")
    play(page, "animate")
    video = save_download(page, "#animate-download-video")
    record, label = read_video_metadata(video)
    assert [region["motion"] for region in record.settings["regions"]] == list(said["motions"])
    assert label["Label"] == "1"
    sticker = save_download(page, "#animate-download-webp")
    assert Image.open(sticker).n_frames == NUM_FRAMES


def film(page, said, save_download):
    """Words, a picture and the window that goes on from it, each with its progress; then the film and its file."""
    page.get_by_role("tab").nth(2).click()
    page.fill("#video-prompt textarea", said["video"])
    seen = set()
    with held(lambda progress: progress.window not in seen):
        page.click("#video-button")
        for window in (1, 2):
            status(page, "video", said["window"].format(window))
            if window == 2:
                page.wait_for_selector("#video-stage img")
            seen.add(window)
    play(page, "video")
    video = save_download(page, "#video-download-video")
    record, label = read_video_metadata(video)
    assert record.prompt == said["video"]
    assert label["Label"] == "1"
    assert len(read_video(video).frames) == NUM_FRAMES


def bring_settings_back(page, said, save_download):
    page.get_by_role("tab").nth(0).click()
    file = save_download(page, "#image-download")
    record = read_image_metadata(file)
    assert record.prompt == said["prompt"]
    page.fill("#image-prompt textarea", "")
    page.set_input_files("#image-drop input[type=file]", file)
    status(page, "image", said["back"])
    assert page.input_value("#image-prompt textarea") == said["prompt"]
    assert page.locator("#image-seed textarea, #image-seed input").first.input_value() == str(record.seed)


def talk(page, said):
    """Previews of a turn that is stopped; then five turns, the last of which takes one back."""
    page.get_by_role("tab").nth(3).click()
    page.fill("#chat-message textarea", said["chat"][0])
    with held(lambda progress: progress.preview):
        page.click("#chat-button")
        page.wait_for_selector("#chat-stage img")
        page.click("#chat-cancel")
        status(page, "chat", said["stopped"])
    words = f"document.querySelector('#chat-message textarea').value === {json.dumps(said['chat'][0])}"
    page.wait_for_function(words)  # they come back a moment after what the status says
    page.wait_for_selector("#chat-stage img")
    assert page.locator("#chat-history .bot.message").count() == 0
    for count, words in enumerate(said["chat"][:4], start=1):
        page.fill("#chat-message textarea", words)
        page.click("#chat-button")
        page.wait_for_function(f"document.querySelectorAll('#chat-history .bot.message').length == {count}")
    assert said["scene"] in page.inner_text("#chat-history")
    page.fill("#chat-message textarea", said["chat"][4])
    page.click("#chat-button")
    page.wait_for_function("document.querySelectorAll('#chat-history .bot.message').length == 3")
    page.wait_for_selector("#chat-stage img")


@pytest.mark.parametrize("locale", SAID)
def test_a_visitor_draws_stops_animates_films_and_talks_and_nothing_leaves_the_machine(
    locale, address, open_page, save_download
):
    said = SAID[locale]
    page = open_page(address, locale=locale)
    assert page.inner_text(".dj-title").strip() == said["title"]
    draw(page, said)
    animate(page, said, save_download)
    film(page, said, save_download)
    bring_settings_back(page, said, save_download)
    talk(page, said)
    page.reload()
    page.wait_for_function("document.querySelectorAll('#image-gallery .thumbnail-item img').length == 2")
    assert page.faults == []
    hosts = {urlparse(url).hostname for url in page.requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_at_the_width_of_a_desk_and_of_a_phone(width, address, open_page):
    page = open_page(address, width=width)
    for number in range(4):
        page.get_by_role("tab").nth(number).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        beyond = page.evaluate(
            "w => [...document.querySelectorAll('button, input, textarea, label, h1, p')].filter(e => e.offsetParent)"
            ".map(e => e.getBoundingClientRect()).filter(r => r.width && (r.left < -1 || r.right > w + 1)).length",
            width,
        )
        assert beyond == 0


def test_a_model_of_still_pictures_says_so_in_the_tabs_for_films(picture_address, open_page):
    page = open_page(picture_address, locale="zh-CN")
    for number, name in ((1, "animate"), (2, "video")):
        page.get_by_role("tab").nth(number).click()
        assert "只会画静止的图" in page.inner_text(f"#{name}-note")
