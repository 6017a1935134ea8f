"""Error messages: in the reader's language, with the names of the reader's interface, without paths of the server."""

import re

import numpy as np
import pytest

from dianjing.demo.i18n.translation import parse_accept_language, render_for_http, render_for_page
from dianjing.errors import DianjingError, Message
from dianjing.pipelines import validation
from dianjing.pipelines.conversation.errors import EditError, LocalizedName
from dianjing.pipelines.media.mask import check_mask
from dianjing.pipelines.segmentation.base import Point, Region, check_points
from dianjing.pipelines.validation import check_fps, check_num_frames

HAN_PATTERN = re.compile("[一-鿿]")
POINT = Point(x=1, y=1)
BAD_INPUTS = {
    "steps as text": lambda: validation.check_num_inference_steps("20"),
    "too many steps": lambda: validation.check_num_inference_steps(10**9),
    "an empty prompt": lambda: validation.check_prompt(" "),
    "a number for a prompt": lambda: validation.check_prompt(3),
    "a long prompt": lambda: validation.check_prompt("a" * 10**6),
    "a surrogate": lambda: validation.check_prompt("a\ud800"),
    "a NUL": lambda: validation.check_prompt("a\0"),
    "an odd size": lambda: validation.check_side_px(100, "width"),
    "a tiny size": lambda: validation.check_side_px(3, "height"),
    "endless guidance": lambda: validation.check_guidance_scale(float("inf")),
    "no room for seeds": lambda: validation.ImageRequest(prompt="a", seed=2**64 - 1, num_images_per_prompt=2),
    "no frame rate": lambda: check_fps(0),
    "a negative duration": lambda: check_num_frames(None, -1, 8.0, bytes_per_frame=1),
    "a long duration": lambda: check_num_frames(10**15, None, 8.0, bytes_per_frame=1),
    "no clicks": lambda: check_points([], width=8, height=8),
    "many clicks": lambda: check_points([POINT] * 10**5, width=8, height=8),
    "a click without a position": lambda: check_points([Point(x=float("nan"), y=1)], width=8, height=8),
    "a click outside": lambda: check_points([Point(x=9, y=1)], width=8, height=8),
    "only negative clicks": lambda: check_points([Point(x=1, y=1, positive=False)], width=8, height=8),
    "too strong": lambda: Region(motion="jump", points=[POINT], strength=2),
    "nothing selected": lambda: Region(motion="jump"),
    "an empty mask": lambda: check_mask(np.array([[False]]), size=(1, 1)),
    "a full mask": lambda: check_mask(np.array([[True]]), size=(1, 1)),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_an_error_is_in_the_readers_language_with_the_labels_of_the_page(name):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        BAD_INPUTS[name]()
    chinese, english = render_for_page(caught.value, "zh"), render_for_page(caught.value, "en")
    assert HAN_PATTERN.search(chinese)
    assert not chinese.startswith("请求有误")
    assert not HAN_PATTERN.search(english)
    for parameter in ("num_inference_steps", "guidance_scale"):
        assert parameter not in chinese + english
    assert [number for number in re.findall(r"\d{2,}", english) if number not in chinese] == []


@pytest.mark.parametrize(
    ("language", "page", "http"),
    [
        ("en", "“Number of images” is 0; give a whole number", "n is 0; give a whole number"),
        ("zh", "“图片数量” 为 0；应为：整数", "n 为 0；应为：整数"),
    ],
)
def test_a_parameter_has_the_name_of_the_interface(language, page, http):
    error = DianjingError("field_wrong_type", name="num_images", value="0", expected=Message("expected_integer"))
    assert render_for_page(error, language) == page
    assert render_for_http(error, language) == http


def test_a_parameter_at_the_start_of_a_message_has_the_name_of_the_interface():
    error = DianjingError("motion_needs_frames", num_frames=1)
    assert render_for_page(error, "en").startswith("“Frames” is 1")
    assert render_for_page(error, "zh").startswith("“帧数”")


def test_a_name_in_both_languages_inside_a_message_is_rendered():
    error = EditError("object_not_found", name=LocalizedName(en="elephant", zh="大象"))
    assert render_for_page(error, "en").startswith("there is no elephant")
    assert render_for_page(error, "zh").startswith("图片里没有大象")


def test_paths_of_the_server_are_removed_also_from_errors_inside_an_error():
    error = DianjingError("network_failed", reason=DianjingError("disk_full", path="/srv/models/secret.bin"))
    for language in ("en", "zh"):
        text = render_for_http(error, language)
        assert "..." in text
        assert "secret" not in text


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en;q=0.8,zh;q=0.7", "en"),
        ("fr,zh;q=0.3", "zh"),
        ("fr", "en"),
        ("", "en"),
        ("zh;q=2,*", "zh"),
        ("en;q=x,zh", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(header, language):
    assert parse_accept_language(header) == language
