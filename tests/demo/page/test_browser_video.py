"""The Animate and Video tabs in a real browser, in both languages."""

import threading

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.video import read_video_metadata
from dianjing.pipelines.media.video_reading import read_video
from tests.demo.page.browser import (
    TEXTS,
    check_language,
    click_on_image,
    generate_image,
    open_tab,
    paused_runs,
    read_pixels,
    wait_for_history,
    wait_for_playback,
    wait_for_status,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
)

pytestmark = pytest.mark.timeout(600)  # the machine may be busy


@pytest.mark.parametrize("locale", TEXTS)
def test_two_regions_of_an_image_are_animated_and_restored(locale, server, open_page, save_download, tmp_path):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    generate_image(page, texts)
    page.click("#image-to-animate")
    page.wait_for_selector("#animate-picture img")
    bottoms = [page.locator(part).bounding_box() for part in ("#animate-picture", "#animate-button", "#animate-stage")]
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= 900 for box in bottoms)  # all in view at once
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
    wait_until_idle(page, "animate")
    video = save_download(page, "#animate-download-video")
    metadata, label = read_video_metadata(video)
    assert [region["motion"] for region in metadata.settings["regions"]] == list(texts["motions"])
    assert label["Label"] == "1"
    with Image.open(save_download(page, "#animate-download-webp")) as sticker:
        assert sticker.n_frames == server.engine.capabilities.num_frames
    player = page.locator("#animate-video video")
    assert player.evaluate("video => video.controls")
    assert player.get_attribute("aria-label") == texts["prompt"]
    selected = read_pixels(page, "#animate-picture img")
    page.click("#animate-clear-clicks")
    page.wait_for_selector("#animate-motion-2 input", state="hidden")
    page.fill("#animate-motion-1 input", texts["motions"][1])
    page.keyboard.press("Enter")
    page.set_input_files("#animate-drop input[type=file]", video)
    wait_for_status(page, "animate", texts["restored"])
    page.wait_for_selector("#animate-motion-2 input")
    wait_for_value(page, "#animate-motion-1 input", texts["motions"][0])
    assert np.abs(read_pixels(page, "#animate-picture img") - selected).mean() < 4  # the same regions
    check_language(page, locale)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (80, 60), "navy").save(picture)
    wait_for_value(page, "#animate-prompt textarea", texts["prompt"])
    page.click("#animate-picture button[aria-label='Remove Image'], #animate-picture button[aria-label='移除图片']")
    wait_for_value(page, "#animate-prompt textarea", "")
    page.set_input_files("#animate-picture input[type=file]", picture)
    page.wait_for_selector("#animate-picture img")


def wait_for_cancel_in_window_2(job, progress):
    return job.cancel_requested if progress.preview and progress.window == 2 else None


@pytest.mark.parametrize("locale", TEXTS)
def test_a_video_is_generated_window_by_window_and_its_frames_stay_when_it_is_stopped(
    locale, server, open_page, save_download
):
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
    wait_until_idle(page, "video")
    video = save_download(page, "#video-download-video")
    metadata, label = read_video_metadata(video)
    assert metadata.prompt == texts["video"]
    assert label["Label"] == "1"
    frames = read_video(save_download(page, "#video-download-webp")).frames  # equal frames encode equally, not as MP4
    assert len(frames) == len(read_video(video).frames) == server.engine.capabilities.num_frames
    page.fill("#video-prompt textarea", "")
    page.set_input_files("#video-drop input[type=file]", video)
    wait_for_status(page, "video", texts["restored"])
    wait_for_value(page, "#video-prompt textarea", texts["video"])
    with paused_runs(server.engine, wait_for_cancel_in_window_2):
        page.press("#video-prompt textarea", "Enter")
        wait_for_status(page, "video", texts["window"].format(2))  # the first window is a single frame
        page.wait_for_selector("#video-stage img")
        assert page.is_disabled("#video-download-video")
        page.click("#video-cancel")
        wait_for_status(page, "video", texts["stopped"])
    wait_for_history(page, "video", 2)
    wait_until_idle(page, "video")
    wait_for_text(page, "#video-caption", texts["unfinished"])
    unfinished = save_download(page, "#video-download-video")
    assert read_video_metadata(unfinished)[0].settings["unfinished"]
    assert len(read_video(unfinished).frames) > 1
    check_language(page, locale)
    page.click("#video-button")
    wait_for_history(page, "video", 3)
    wait_until_idle(page, "video")
    assert np.array_equal(read_video(save_download(page, "#video-download-webp")).frames, frames)


def test_a_transparent_video_is_generated_and_its_switch_is_restored(server, open_page, save_download):
    texts, page = TEXTS["zh-CN"], open_page(server.address, locale="zh-CN")
    open_tab(page, "video")
    page.fill("#video-prompt textarea", texts["video"])
    page.check("#video-transparent input")
    page.click("#video-button")
    wait_for_history(page, "video", 1)
    wait_until_idle(page, "video")
    file = save_download(page, "#video-download-apng")
    with Image.open(file) as video:
        assert video.n_frames == server.engine.capabilities.num_frames
        video.seek(video.n_frames - 1)
        assert video.convert("RGBA").getchannel("A").getextrema() == (0, 255)
    assert read_video(save_download(page, "#video-download-video")).frames[0, 0, 0].min() > 240  # white for alpha
    page.uncheck("#video-transparent input")
    page.set_input_files("#video-drop input[type=file]", file)
    wait_for_status(page, "video", texts["restored"])
    page.wait_for_selector("#video-transparent input:checked")
    check_language(page, "zh-CN")
