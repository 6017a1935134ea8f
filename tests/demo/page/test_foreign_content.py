"""Names, prompts and conversations from files of other people are text on the page."""

import json

import pytest
from PIL import Image

from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from tests.demo.page.browser import open_tab, wait_for_status

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

MARKUP = (
    '<a href="https://evil.example" style="position:fixed;inset:0;z-index:9">all over</a>'
    '<img src="http://evil.example/a.png" onerror="window.attacked = 1"><script>window.attacked = 1</script>'
    '<svg onload="window.attacked = 1"></svg><iframe src="http://evil.example"></iframe><b>bold</b>'
    '<form action="http://evil.example"><button>x</button></form><style>* { display: none }</style>'
    "${window.attacked = 1}{{window.attacked = 1}}&lt;b&gt;"
)
MARKDOWN = (
    "![a](http://evil.example/b.png) [link](javascript:alert(1)) $\\href{https://evil.example}{x}$ **bold** `code`"
)
ELEMENTS = "a[href*=evil], img[src*=evil], iframe, svg[onload], form[action*=evil], #chat-history :is(b, strong, code)"


def count_elements(page):
    return page.evaluate(
        "selector => [...document.querySelectorAll(selector)].length + (window.attacked ?? 0)", ELEMENTS
    )


def test_a_conversation_of_somebody_else_is_text(server, open_page, save_download, tmp_path):
    page = open_page(server.address)
    open_tab(page, "chat")
    page.fill("#chat-message textarea", "draw a cat")
    page.click("#chat-button")
    wait_for_status(page, "chat", "generated")
    content = json.loads(save_download(page, "#chat-save").read_text(encoding="utf-8"))
    [turn] = content["turns"]
    turn |= {"text": MARKUP, "prompt": MARKDOWN, "changes": [MARKUP, MARKDOWN], "hints": [MARKUP]}
    path = tmp_path / "<img src=x onerror=attacked=1>.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.click("#chat-load")
    chooser.value.set_files(path)
    page.locator("#chat-history").filter(has_text="all over").wait_for()
    page.wait_for_timeout(1000)  # for images and scripts, if there were any
    text = page.locator("#chat-history").inner_text()
    for line in (MARKUP, MARKDOWN):
        assert line in text
    assert count_elements(page) == 0
    page.reload()  # the conversation is shown again from the session
    open_tab(page, "chat")
    page.locator("#chat-history").filter(has_text="all over").wait_for()
    assert count_elements(page) == 0


def test_settings_of_somebody_elses_picture_are_text(server, open_page, tmp_path):
    page = open_page(server.address)
    settings = {"negative_prompt": MARKUP, "width": 64, "height": 64}
    metadata = GenerationMetadata(prompt=MARKUP, seed=3, settings=settings, model=MARKUP, version="0")
    path = tmp_path / "ours.png"
    save_image(Image.new("RGB", (64, 64)), path, metadata, label=None)
    page.set_input_files("#image-drop input[type=file]", path)
    wait_for_status(page, "image", "settings are restored")
    assert page.input_value("#image-prompt textarea") == MARKUP
    assert count_elements(page) == 0


def test_names_of_files_in_errors_are_text(server, open_page, tmp_path):
    page = open_page(server.address)
    path = tmp_path / "<img src=x onerror=attacked=1>${attacked=1}.png"
    Image.new("RGB", (64, 64)).save(path)
    page.set_input_files("#image-drop input[type=file]", path)
    wait_for_status(page, "image", "holds no settings")
    assert count_elements(page) == 0
    assert page.locator("#image-status img").count() == 0
