"""The Edit tab in a real browser: what the brush paints changes, and every other pixel stays."""

import io

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from tests.demo.page.browser import open_tab, wait_for_history, wait_until_idle

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
RIM_PX = 8  # of the mask, and of the brush's round ends


def test_what_the_brush_paints_changes_and_the_rest_stays(image_server, open_page, save_download):
    page = open_page(image_server.address, locale="en-US")
    open_tab(page, "edit")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.set_input_files("#edit-picture input[type=file]", file)
    canvas = page.locator("#edit-board canvas")
    canvas.wait_for(state="visible")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.25 * box["height"], steps=4)
    page.mouse.up()
    page.fill("#edit-prompt textarea", "cat")
    page.click("#edit-button")
    wait_for_history(page, "edit", 1)
    wait_until_idle(page, "edit")
    path = save_download(page, "#edit-download")
    with Image.open(path) as image:
        is_changed = (np.asarray(image.convert("RGB")) != pixels).any(axis=2)
    rows, columns = np.nonzero(is_changed)
    assert is_changed[7:10, 8:15].all()
    assert rows.max() < 8 + 3 + RIM_PX
    assert columns.max() < 16 + 3 + RIM_PX
    settings = read_image_metadata(path).settings
    assert settings["mask"]["width"] == 32
    assert settings["strength"] == 1
    page.click("#edit-clear-strokes")
    page.fill("#edit-words textarea, #edit-words input", "cat")
    page.click("#edit-button")
    wait_for_history(page, "edit", 2)
    wait_until_idle(page, "edit")
    assert read_image_metadata(save_download(page, "#edit-download")).settings["words"] == "cat"


def test_an_image_is_sent_to_the_edit_tab_with_its_prompt(image_server, open_page):
    page = open_page(image_server.address, locale="en-US")
    page.fill("#image-prompt textarea", "cat")
    page.click("#image-button")
    wait_for_history(page, "image", 1)
    wait_until_idle(page, "image")
    page.click("#image-to-edit")
    page.locator("#edit-board canvas").wait_for(state="visible")
    assert page.input_value("#edit-prompt textarea") == "cat"
    page.fill("#edit-words textarea, #edit-words input", "cat")
    page.click("#edit-button")
    wait_for_history(page, "edit", 1)
    wait_until_idle(page, "edit")
