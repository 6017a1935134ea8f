"""Both languages say the same, and an error is never left in the wrong one in silence."""

import re
import string

import pytest

from dianjing.demo.i18n.catalog import MESSAGES, TEXTS
from dianjing.demo.i18n.translation import translate_with_labels
from dianjing.pipelines import validation
from dianjing.pipelines.segmentation.base import Point, Region, check_mask, check_points
from dianjing.pipelines.validation import check_fps, check_num_frames

HAN = re.compile("[一-鿿]")


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", [*TEXTS, *MESSAGES])
def test_every_text_is_there_in_both_languages(name):
    text = (TEXTS | MESSAGES)[name]
    assert HAN.search(text.zh)
    assert text.en
    assert not HAN.search(text.en)
    assert fields(text.zh) == fields(text.en)


POINT = Point(x=1, y=1)
FAULTS = {
    "a whole number": lambda: validation.check_num_inference_steps("20"),
    "too many steps": lambda: validation.check_num_inference_steps(10**9),
    "an empty prompt": lambda: validation.check_prompt(" "),
    "no text": lambda: validation.check_prompt(3),
    "a long prompt": lambda: validation.check_prompt("a" * 10**6),
    "a surrogate": lambda: validation.check_prompt("a\ud800"),
    "a NUL": lambda: validation.check_prompt("a\0"),
    "an odd size": lambda: validation.check_side_px(100, "width"),
    "a tiny size": lambda: validation.check_side_px(3, "height"),
    "endless guidance": lambda: validation.check_guidance_scale(float("inf")),
    "no room for seeds": lambda: validation.ImageRequest(prompt="a", seed=2**64 - 1, num_images_per_prompt=2),
    "no speed": lambda: check_fps(0),
    "no length": lambda: check_num_frames(None, -1, 8.0, bytes_per_frame=1),
    "too long": lambda: check_num_frames(10**15, None, 8.0, bytes_per_frame=1),
    "no clicks": lambda: check_points([], width=8, height=8),
    "many clicks": lambda: check_points([POINT] * 10**5, width=8, height=8),
    "a click nowhere": lambda: check_points([Point(x=float("nan"), y=1)], width=8, height=8),
    "a click outside": lambda: check_points([Point(x=9, y=1)], width=8, height=8),
    "only negative clicks": lambda: check_points([Point(x=1, y=1, positive=False)], width=8, height=8),
    "too strong": lambda: Region(motion="jump", points=[POINT], strength=2),
    "nothing selected": lambda: Region(motion="jump"),
    "an empty mask": lambda: check_mask([[False]], size=(1, 1)),
    "a full mask": lambda: check_mask([[True]], size=(1, 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_is_told_in_the_readers_language_and_by_the_labels_of_the_page(fault):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is looked at)
        FAULTS[fault]()
    message = str(caught.value)
    chinese, english = translate_with_labels(message, "zh"), translate_with_labels(message, "en")
    assert HAN.search(chinese)
    assert not chinese.startswith("请求有误")
    assert not HAN.search(english)
    for setting in ("num_inference_steps", "guidance_scale"):
        assert setting not in chinese + english
    assert [number for number in re.findall(r"\d{2,}", message) if number not in chinese] == []


def test_a_setting_is_named_as_the_page_names_it():
    assert translate_with_labels("num_inference_steps is 0; give a whole number from 1 to 1000", "en").startswith(
        "“Steps” is 0;"
    )
    assert translate_with_labels("num_inference_steps is 0; give a whole number from 1 to 1000", "zh").startswith(
        "“步数”"
    )


def test_an_unforeseen_error_is_still_told():
    assert translate_with_labels("the disk is full", "zh") == "请求有误：the disk is full"
