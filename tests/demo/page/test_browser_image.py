"""The Image tab in a real browser, in both languages; a page that is loaded again, and a server out of reach."""

import io
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.page.examples import make_example_prompts
from dianjing.pipelines.media.image import read_image_metadata
from tests.demo.page.browser import (
    TEXTS,
    check_language,
    generate_image,
    open_tab,
    paused_runs,
    read_image,
    set_number,
    wait_for_cancel_at_preview,
    wait_for_history,
    wait_for_status,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
)

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
SEED = "#image-seed input, #image-seed textarea"


@pytest.mark.parametrize("locale", TEXTS)
def test_images_are_generated_by_a_click_or_by_enter_and_restored_from_a_file(
    locale, server, open_page, save_download, tmp_path
):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    assert page.inner_text(".dj-title").strip() == texts["title"]
    page.locator("#image-examples .gallery-item").first.click()
    wait_for_history(page, "image", 1)
    wait_until_idle(page, "image")
    example = make_example_prompts(server.engine, locale[:2]).images[0]
    assert page.input_value("#image-prompt textarea") == example
    page.wait_for_function("text => document.querySelector('#image-stage img').alt === text", arg=example)
    assert page.locator("#image-gallery img").get_attribute("alt") == example
    page.fill("#image-prompt textarea", "")
    page.locator("#image-prompt textarea").press_sequentially(texts["prompt"])
    page.keyboard.press("Shift+Enter")
    page.locator("#image-prompt textarea").press_sequentially(texts["prompt"])
    page.fill(SEED, "77")
    page.press("#image-prompt textarea", "Enter")
    wait_for_history(page, "image", 2)
    wait_until_idle(page, "image")
    file = save_download(page, "#image-download")
    metadata = read_image_metadata(file)
    assert (metadata.prompt, metadata.seed) == (f"{texts['prompt']}\n{texts['prompt']}", 77)
    assert "77" in page.inner_text("#image-caption")
    page.fill("#image-prompt textarea", "")
    page.fill(SEED, "")
    page.set_input_files("#image-drop input[type=file]", file)
    wait_for_status(page, "image", texts["restored"])
    wait_for_value(page, "#image-prompt textarea", metadata.prompt)
    assert page.locator(SEED).first.input_value() == "77"
    page.click("#image-button")
    wait_for_history(page, "image", 3)
    wait_until_idle(page, "image")
    assert np.array_equal(read_image(save_download(page, "#image-download")), read_image(file))
    notes = tmp_path / "notes.txt"
    notes.write_text("x")
    page.set_input_files("#image-drop input[type=file]", notes)
    wait_for_text(page, ".toast-body", texts["file_refused"])
    check_language(page, locale)


@pytest.mark.parametrize("locale", TEXTS)
def test_images_that_were_stopped_stay_apart_and_histories_are_deleted(locale, server, open_page, save_download):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    page.fill("#image-prompt textarea", texts["prompt"])
    page.fill(SEED, "5")
    set_number(page, "#image-count", 3)
    with paused_runs(server.engine, wait_for_cancel_at_preview):
        page.click("#image-button")
        wait_for_status(page, "image", texts["step"])
        page.wait_for_selector("#image-stage img")
        assert page.is_disabled("#image-download")
        page.click("#image-cancel")
        wait_for_status(page, "image", texts["stopped"])
    wait_for_history(page, "image", 3)
    wait_for_text(page, "#image-caption", texts["unfinished"])
    archive = save_download(page, "#image-download-all")
    with zipfile.ZipFile(archive) as files:
        images = [Image.open(io.BytesIO(files.read(name))) for name in sorted(files.namelist())]
    side_px = server.engine.capabilities.default_size_px
    assert [image.size for image in images] == [(side_px, side_px)] * 3
    assert len({image.tobytes() for image in images}) == 3
    page.click("#image-delete")
    wait_for_history(page, "image", 2)
    page.click("#image-clear")
    wait_for_text(page, "#image-question", texts["clear_question"].format(2))
    check_language(page, locale)
    page.click("#image-clear-keep")
    page.wait_for_selector("#image-clear-confirm", state="hidden")
    wait_for_history(page, "image", 2)
    page.click("#image-clear")
    page.click("#image-clear-confirm")
    page.wait_for_selector("#image-gallery", state="hidden")
    assert page.is_disabled("#image-download")


@pytest.mark.parametrize("locale", TEXTS)
def test_a_run_goes_on_when_the_server_was_out_of_reach_and_the_page_is_loaded_again(locale, server, open_page):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    generate_image(page, texts)
    open_tab(page, "video")
    page.fill("#video-prompt textarea", texts["video"])
    open_tab(page, "image")
    page.fill(SEED, "9")
    may_end = threading.Event()
    with paused_runs(server.engine, lambda job, progress: may_end if progress.preview else None):
        try:
            page.click("#image-button")
            wait_for_status(page, "image", texts["step"])  # the stage still shows the first image before
            page.context.set_offline(True)
            wait_for_status(page, "image", texts["lost"])
            wait_until_idle(page, "image")
            check_language(page, locale)
            page.context.set_offline(False)  # the page is loaded again as soon as the server answers
            page.wait_for_selector("#image-cancel:not([disabled])")
            wait_for_status(page, "image", texts["step"])
            wait_for_value(page, "#image-prompt textarea", texts["prompt"])
        finally:
            may_end.set()
        wait_for_history(page, "image", 2)
    wait_until_idle(page, "image")
    assert "9" in page.inner_text("#image-caption")
    assert page.locator(SEED).first.input_value() == "9"
    open_tab(page, "video")
    wait_for_value(page, "#video-prompt textarea", texts["video"])


def test_a_transparent_image_is_generated_and_the_gallery_becomes_an_album(server, open_page, save_download):
    locale = "zh-CN"
    page = open_page(server.address, locale=locale)
    page.fill("#image-prompt textarea", TEXTS[locale]["prompt"])
    page.check("#image-transparent input")
    page.click("#image-button")
    wait_for_history(page, "image", 1)
    wait_until_idle(page, "image")
    with Image.open(save_download(page, "#image-download")) as image:
        assert image.mode == "RGBA"
        assert image.getchannel("A").getextrema() == (0, 255)
    assert page.inner_text("#image-album").strip() == "制作表情包"
    with zipfile.ZipFile(save_download(page, "#image-album")) as album:
        names = album.namelist()
    assert len([name for name in names if name.endswith(".gif")]) == 8
    assert {"banner.png", "cover.png", "icon.png", "meanings.csv"} <= set(names)
    check_language(page, locale)


def test_no_update_is_lost_when_several_arrive_together(server, open_page):
    texts, page = TEXTS["en-US"], open_page(server.address, locale="en-US")

    def answer_late(route):
        response = route.fetch()
        time.sleep(1)  # by now the run that is followed has sent several updates
        route.fulfill(response=response)

    page.fill("#image-prompt textarea", texts["prompt"])
    with paused_runs(server.engine, wait_for_cancel_at_preview):
        page.click("#image-button")
        wait_for_status(page, "image", texts["step"])
        page.route("**/queue/join*", answer_late)
        page.reload()
        page.click("#image-cancel:not([disabled])")
        wait_for_status(page, "image", texts["stopped"])
