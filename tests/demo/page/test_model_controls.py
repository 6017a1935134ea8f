"""The model on the page: name, licence, sizes, predicted times, and a tab for each thing that it can do."""

import json
import urllib.request
from collections import defaultdict

import pytest
from PIL import Image

from dianjing.demo.i18n.catalog import TEXTS
from dianjing.demo.video_models import VideoModels
from dianjing.errors import DianjingError
from tests.demo.page.browser import click_on_image
from tests.demo.page.conftest import TIMEOUT_MS, run_app, wait_until_mounted

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

LANGUAGES = {"en-US": "en", "zh-CN": "zh"}


def get_tab_names(page):
    return page.locator("#tabs [role=tab]").all_inner_texts()


def wait_for_forecast(page, part):
    script = "part => document.querySelector('#image-forecast').innerText.includes(part)"
    page.wait_for_function(script, arg=part, timeout=TIMEOUT_MS)


@pytest.mark.parametrize("locale", LANGUAGES)
def test_the_head_names_the_model_and_its_licence(locale, server, image_server, open_page):
    page = open_page(server.address, locale=locale)
    assert page.inner_text("#model-name").strip() == "sticker"
    assert page.inner_text("#model-licence").strip() == "Apache-2.0"
    page = open_page(image_server.address, locale=locale)
    assert page.inner_text("#model-name").strip() == "tiny"
    assert page.inner_text("#model-licence").strip() == getattr(TEXTS["licence_unknown"], LANGUAGES[locale])


@pytest.mark.parametrize("locale", LANGUAGES)
def test_a_model_without_motion_blocks_shows_no_dead_tabs(locale, server, image_server, open_page):
    names = {
        key: getattr(TEXTS[f"tab_{key}"], LANGUAGES[locale]) for key in ("image", "edit", "animate", "video", "chat")
    }
    assert get_tab_names(open_page(server.address, locale=locale)) == list(names.values())
    page = open_page(image_server.address, locale=locale)
    assert get_tab_names(page) == [names["image"], names["edit"], names["chat"]]
    assert page.locator("#image-to-animate").count() == 0


@pytest.mark.parametrize("locale", LANGUAGES)
def test_a_size_that_the_model_was_not_trained_for_is_announced_with_its_time(locale, server, open_page, monkeypatch):
    seconds_per_pixel = 540 / 1024**2
    monkeypatch.setattr(server.engine, "predict_s", lambda request: request.width * request.height * seconds_per_pixel)
    page = open_page(server.address, locale=locale)
    page.click(f"text={getattr(TEXTS['advanced'], LANGUAGES[locale])} >> visible=true")
    wait_until_mounted(page, "#image-size")
    width, height = page.locator("#image-size").locator("xpath=following::input[@type='number']").all()[:2]
    assert page.inner_text("#image-forecast").strip() == ""
    assert page.is_checked("#image-size input")
    for side in (width, height):
        side.fill("1024")
        side.press("Tab")
    wait_for_forecast(page, "9 min" if locale == "en-US" else "9 分钟")
    wait_for_forecast(page, "128 x 128")
    assert not page.is_checked("#image-size input")
    page.fill("#image-prompt textarea", "a cat")
    page.click("#image-button")
    page.wait_for_selector("#image-status [role=alert]")
    assert ("5 min" if locale == "en-US" else "5 分钟") in page.inner_text("#image-status")
    page.click("#image-size label")
    page.wait_for_function("document.querySelector('#image-forecast').innerText.trim() === ''")
    assert width.input_value() == height.input_value() == "128"


def test_at_most_one_function_of_the_server_follows_the_changes_of_a_component(server):
    with urllib.request.urlopen(f"{server.address}config") as response:
        config = json.load(response)
    followers = defaultdict(list)
    for dependency in config["dependencies"]:
        assert dependency["trigger_mode"] in ("once", "multiple", "always_last")
        if dependency["js"] is None and dependency["trigger_mode"] == "always_last":
            for component, event in dependency["targets"]:
                followers[component, event].append(dependency["api_name"])
    names = {key: names for key, names in followers.items() if key[1] != "load" and len(names) > 1}
    assert followers
    assert not names, "see show_while"


def test_settings_that_change_quickly_are_followed_once(server, open_page):
    page = open_page(server.address)
    page.click(f"text={TEXTS['advanced'].en} >> visible=true")
    wait_until_mounted(page, "#image-size")
    width, height = page.locator("#image-size").locator("xpath=following::input[@type='number']").all()[:2]
    options = {"offline": False, "latency": 150, "downloadThroughput": -1, "uploadThroughput": -1}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", options)
    calls = []
    page.on("request", lambda request: calls.append(request.url) if "/run/" in request.url else None)
    for value in range(192, 448, 32):
        width.fill(str(value))
        height.fill(str(value))
    wait_for_forecast(page, "128 x 128")
    assert not page.is_checked("#image-size input")
    page.click("#image-size label")
    page.wait_for_function("document.querySelector('#image-forecast').innerText.trim() === ''", timeout=TIMEOUT_MS)
    page.wait_for_timeout(1000)
    num_calls = len(calls)
    page.wait_for_timeout(2000)
    assert 0 < num_calls == len(calls)
    assert width.input_value() == height.input_value() == "128"
    assert page.is_checked("#image-size input")


@pytest.mark.parametrize("locale", LANGUAGES)
def test_adapters_and_a_controlnet_are_chosen_on_the_page(locale, extended_server, open_page, tmp_path, monkeypatch):
    requests = []
    run = extended_server.engine.run

    def record(job, results, *, on_progress):
        requests.append(job.request)
        return run(job, results, on_progress=on_progress)

    monkeypatch.setattr(extended_server.engine, "run", record)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "control.png")
    page = open_page(extended_server.address, locale=locale)
    page.fill("#image-prompt textarea", "cat")
    page.click(f"text={getattr(TEXTS['advanced'], LANGUAGES[locale])} >> visible=true")
    page.fill("#image-adapter-robot input[type=number]", "0.75")
    page.fill("#image-adapter-ink-v2 input[type=number]", "0")
    page.press("#image-adapter-ink-v2 input[type=number]", "Tab")
    page.click("#image-control button")
    page.set_input_files("#image-control-edges-upload input[type=file]", tmp_path / "control.png")
    page.wait_for_selector("#image-control-edges-upload img")
    page.fill("#image-control-edges-end input[type=number]", "0.5")
    page.press("#image-control-edges-end input[type=number]", "Tab")
    page.click("#image-button")
    page.wait_for_selector("#image-stage img", timeout=TIMEOUT_MS)
    request = requests[-1]
    assert request.adapters == {"robot": 0.75}
    (control,) = request.controls
    assert (control.controlnet, control.preprocessor, control.guidance_end) == ("edges", None, 0.5)
    assert control.image.getpixel((5, 5)) == (255, 0, 0)
    for name in ("animate", "video", "chat"):
        page.click(f"#tabs [role=tab] >> text={getattr(TEXTS[f'tab_{name}'], LANGUAGES[locale])}")
        page.click(f"text={getattr(TEXTS['advanced'], LANGUAGES[locale])} >> visible=true")
        page.wait_for_selector(f"#{name}-adapter-robot", timeout=TIMEOUT_MS)


def open_animate_tab(page, path):
    """Open the tab with a gray image, which is written to `path`."""
    Image.new("RGB", (64, 64), "gray").save(path)
    page.click("#tabs [role=tab] >> text=Animate")
    page.set_input_files("#animate-picture input[type=file]", path)
    page.wait_for_selector("#animate-picture img")


def test_a_published_video_model_is_chosen_on_the_page(tiny_video_folder, published_folder, open_page, tmp_path):
    requests = []

    def record(job, results, *, on_progress):
        requests.append(job.request)
        raise DianjingError("prompt_empty", name="stopped")

    models = VideoModels([str(published_folder("wan-2.2-ti2v"))])
    with run_app(tiny_video_folder, video_models=models) as server:
        server.engine.run = record
        page = open_page(server.address)
        page.click("#tabs [role=tab] >> text=Video")
        page.click("#video-model input")
        page.click("[role=option] >> text=wan-2.2-ti2v")
        # 81 frames at 24 per second
        page.wait_for_function("[...document.querySelectorAll('input')].some(input => input.value === '3.4')")
        page.fill("#video-prompt textarea", "a cat")
        page.click("#video-button")
        page.wait_for_selector("#video-status [role=alert]")
        assert requests[0].video_model == "wan-2.2-ti2v"
        assert (requests[0].width, requests[0].height) == (832, 480)
        assert (requests[0].num_frames, requests[0].fps, requests[0].guidance_scale) == (81, 24, 5)
        open_animate_tab(page, tmp_path / "gray.png")
        assert page.locator("#animate-strict").count() == 0
        page.click("#animate-model input")
        page.click("[role=option] >> text=wan-2.2-ti2v >> visible=true")
        page.uncheck("#animate-strict input")
        click_on_image(page, 0.5, 0.5)
        page.fill("#animate-motion-1 input", "jump")
        page.keyboard.press("Enter")
        page.click("#animate-button")
        page.wait_for_selector("#animate-status [role=alert]")
        assert (requests[1].video_model, requests[1].strict_background) == ("wan-2.2-ti2v", False)


def test_published_video_models_have_their_tabs_next_to_a_model_of_images(
    tiny_folder, published_folder, open_page, tmp_path
):
    """The server's own model makes no videos: the tabs begin with the published ones."""
    requests = []

    def record(job, results, *, on_progress):
        requests.append(job.request)
        raise DianjingError("prompt_empty", name="stopped")

    models = VideoModels([str(published_folder(name)) for name in ("hunyuan-i2v-concat", "wan-2.1-t2v")])
    with run_app(tiny_folder, video_models=models) as server:
        server.engine.run = record
        page = open_page(server.address)
        page.click("#tabs [role=tab] >> text=Video")
        assert page.locator("#video-model input").input_value() == "wan-2.1-t2v"
        page.fill("#video-prompt textarea", "a cat")
        page.click("#video-button")
        page.wait_for_selector("#video-status [role=alert]")
        assert (requests[0].video_model, requests[0].num_frames, requests[0].fps) == ("wan-2.1-t2v", 81, 16)
        open_animate_tab(page, tmp_path / "gray.png")
        assert page.is_checked("#animate-strict input")
        click_on_image(page, 0.5, 0.5)
        page.fill("#animate-motion-1 input", "move right")
        page.keyboard.press("Enter")
        page.click("#animate-button")
        page.wait_for_selector("#animate-status [role=alert]")
        assert (requests[1].video_model, requests[1].strict_background) == ("hunyuan-i2v-concat", True)
