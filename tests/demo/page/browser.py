"""Steps of the browser tests: they wait for states of the page, never for a time."""

import io
import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from tests.demo.page.conftest import TIMEOUT_MS

TEXTS = {
    "zh-CN": {
        "prompt": "草地上的一只小猫",
        "title": "点睛",
        "step": r"第 \d+ 步",
        "stopped": "已停止",
        "unfinished": "未完成",
        "done": "已完成",
        "lost": "连接已断开",
        "restored": "设置已恢复",
        "no_click": "还没有标点",
        "clear_question": "要删除全部 {} 项吗",
        "motions": ("跳", "摇摆"),
        "messages": ("画一只小猫", "背景换成沙滩", "右上角加一个红色的气球", "撤销"),
        "refused": "把它变成蓝色",
        "scene": "沙滩",
        "video": "一只小狗在向右走",
        "window": "第 {} 段，共 2 段",
        "file_refused": "不支持的文件",
    },
    "en-US": {
        "prompt": "a cat on the grass",
        "title": "Dianjing",
        "step": r"Step \d+ of",
        "stopped": "Stopped",
        "unfinished": "unfinished",
        "done": "Done",
        "lost": "cannot be reached",
        "restored": "settings are restored",
        "no_click": "has no click",
        "clear_question": r"Delete all {}\?",
        "motions": ("jump", "sway"),
        "messages": ("draw a cat", "on the beach", "add a red balloon at the top right", "undo"),
        "refused": "make it blue",
        "scene": "beach",
        "video": "a cat jumping on the grass",
        "window": "window {} of 2",
        "file_refused": "Invalid file type",
    },
}
TABS = ("image", "edit", "animate", "video", "chat")
# names, and values to type, that Chinese pages use as they are
LATIN_NAMES = (
    "AI",
    "MP4",
    "WebP",
    "GIF",
    "APNG",
    "GIF",
    "Enter",
    "Shift",
    "png",
    "jpg",
    "jpeg",
    "mp4",
    "webp",
    "gif",
    "json",
    "txt",
    "notes",
    "sticker",
    "Apache",
    "apg:eta=0.5",
    "EulerDiscreteScheduler:use_karras_sigmas",
)
FIND_LATIN_WORDS = """names => {
  const texts = [];
  for (const element of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE"].includes(element.tagName.toUpperCase())) continue;
    for (const name of ["title", "aria-label", "alt", "placeholder"]) texts.push(element.getAttribute(name) ?? "");
    for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE) texts.push(node.data);
  }
  const pattern = new RegExp(`\\\\b(${names.join("|")})\\\\b`, "g");
  return [...new Set(texts.filter(text => /[A-Za-z]{2}/.test(text.replace(pattern, ""))))];
}"""


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


def wait_for_text(page, selector, pattern):
    element = page.locator(selector)
    try:
        element.filter(has_text=re.compile(pattern)).wait_for()
    except TimeoutError as error:
        raise AssertionError(f"the text of {selector} is {element.inner_text()!r}, not {pattern!r}") from error


def wait_for_status(page, tab, pattern):
    wait_for_text(page, f"#{tab}-status", pattern)


def wait_for_count(page, selector, count):
    page.wait_for_function(f"document.querySelectorAll({json.dumps(selector)}).length == {count}")


def wait_for_history(page, tab, count):
    wait_for_count(page, f"#{tab}-gallery .thumbnail-item", count)


def wait_for_value(page, selector, value):
    page.wait_for_function(f"document.querySelector({json.dumps(selector)})?.value === {json.dumps(value)}")


def wait_until_idle(page, tab):
    page.wait_for_selector(f"#{tab}-button:not([disabled])")


def wait_for_playback(page, tab):
    page.wait_for_selector(f"#{tab}-video video")
    page.wait_for_function(f"document.querySelector('#{tab}-video video').currentTime > 0")


def set_number(page, label, value):
    """Type a number beside a slider, and leave the box."""
    box = page.locator(label).locator("input[type=number]")
    box.fill(str(value))
    box.blur()


def read_image(path):
    with Image.open(path) as image:
        return np.asarray(image)


def read_pixels(page, selector):
    """The pixels of an image on the page; one that is replaced while it is decoded is decoded again."""
    script = """async (selector) => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await document.querySelector(selector).decode();
        } catch (error) {
          if (attempt === 50) throw error;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
    }"""
    page.evaluate(script, selector)
    with Image.open(io.BytesIO(page.locator(selector).screenshot())) as screenshot:
        return np.asarray(screenshot.convert("RGB"), int)


def click_on_image(page, x, y):
    """Click at a position from 0 to 1, and wait until the image shows the new mask."""
    image = page.locator("#animate-picture img")
    image.scroll_into_view_if_needed()
    before = image.get_attribute("src")
    box = image.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {before!r}")


def generate_image(page, texts):
    page.fill("#image-prompt textarea", texts["prompt"])
    page.click("#image-button")
    wait_for_status(page, "image", texts["done"])


def check_language(page, locale):
    """Nothing on a Chinese page is in English, be it in view or for a screen reader."""
    if locale.startswith("zh"):
        assert page.evaluate(FIND_LATIN_WORDS, list(LATIN_NAMES)) == []
