"""The layout of the page on a desktop and on phones, light and dark."""

import pytest

from tests.demo.page.browser import TABS, check_language, open_tab

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
MAX_MARGIN_PX = 10
MIN_TRACK_CONTRAST, MAX_TRACK_CONTRAST = 1.5, 4.0  # of a slider's track against what lies behind it
GET_TRACK_CONTRAST = """() => {
  const luminance = color => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
      .map(value => value / 255).map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const slider = document.querySelector("#image-count input[type=range]");
  const track = luminance(getComputedStyle(slider).getPropertyValue("--neutral-200"));
  const behind = luminance(getComputedStyle(document.querySelector("#image-count")).backgroundColor);
  return (Math.max(track, behind) + 0.05) / (Math.min(track, behind) + 0.05);
}"""


@pytest.mark.parametrize("width", [1280, 390, 320], ids=["desktop", "phone", "narrow-phone"])
def test_nothing_is_cut_off(width, server, image_server, open_page):
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
        if width < 400:
            button = page.locator(f"#{name}-button").bounding_box()
            cancel = page.locator(f"#{name}-cancel").bounding_box()
            assert button["x"] <= MAX_MARGIN_PX
            assert cancel["x"] + cancel["width"] >= width - MAX_MARGIN_PX
    page = open_page(image_server.address, locale="zh-CN", width=width)
    assert page.locator("#image-examples .gallery-item").count() == 0  # this model has no list of its words


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_tracks_of_sliders_are_visible_and_no_brighter_than_what_they_hold(color_scheme, server, open_page):
    page = open_page(server.address, locale="zh-CN", color_scheme=color_scheme)
    contrast = page.evaluate(GET_TRACK_CONTRAST)
    assert (1.1 if color_scheme == "light" else MIN_TRACK_CONTRAST) < contrast < MAX_TRACK_CONTRAST
    for name in TABS:
        open_tab(page, name)
        for accordion in page.locator("button.label-wrap:visible").all():
            accordion.click()
    check_language(page, "zh-CN")
