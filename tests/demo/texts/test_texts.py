"""Both languages say the same, and an error is never left in the wrong one in silence."""

import re
import string

import pytest

from dianjing.demo.texts.errors import PAIRS, in_language
from dianjing.demo.texts.interface import TEXTS
from dianjing.demo.texts.language import language_of
from dianjing.demo.texts.messages import MESSAGES
from dianjing.pipelines import request
from dianjing.pipelines.lengths import check_fps, check_num_frames
from dianjing.pipelines.regions import Region, check_mask
from dianjing.pipelines.segmenting import Point, check_points

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


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.5", "en"),
        ("fr-FR,fr;q=0.9,zh;q=0.7,en;q=0.3", "zh"),
        ("fr-FR", "en"),
        ("zh;q=none,en;q=0.1", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_language_wanted_most_is_spoken(header, language):
    assert language_of(header) == language


POINT = Point(x=1, y=1)
FAULTS = {
    "a whole number": lambda: request.check_steps("20"),
    "too many steps": lambda: request.check_steps(10**9),
    "an empty prompt": lambda: request.check_prompt(" "),
    "no text": lambda: request.check_prompt(3),
    "a long prompt": lambda: request.check_prompt("a" * 10**6),
    "a surrogate": lambda: request.check_prompt("a\ud800"),
    "a NUL": lambda: request.check_prompt("a\0"),
    "an odd size": lambda: request.check_side(100, "width"),
    "a tiny size": lambda: request.check_side(3, "height"),
    "endless guidance": lambda: request.check_guidance(float("inf")),
    "no room for seeds": lambda: request.ImageRequest(prompt="a", seed=2**64 - 1, num_images_per_prompt=2),
    "no speed": lambda: check_fps(0),
    "no length": lambda: check_num_frames(None, -1, 8.0, bytes_a_frame=1),
    "too long": lambda: check_num_frames(10**15, None, 8.0, bytes_a_frame=1),
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
def test_an_error_of_the_pipelines_has_a_chinese_twin(fault):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is looked at)
        FAULTS[fault]()
    message = str(caught.value)
    chinese = in_language(message, "zh")
    assert HAN.search(chinese)
    assert not chinese.startswith("出错了")
    assert not re.search("give|click|is empty|px", chinese)
    assert in_language(message, "en") == message
    for number in re.findall(r"\d+", message):
        assert number in chinese or number in "10"


def test_every_pair_carries_what_was_given_over():
    for english, chinese in PAIRS:
        values = [f"v{i}" for i in range(english.count("{}"))]
        message = english.replace("<>", "seed").format(*values)
        said = in_language(message, "zh")
        assert not said.startswith("出错了"), english
        assert [value for value in values if value not in said] == ([] if "use_motion" not in english else ["v0"]), chinese


def test_an_unforeseen_error_is_still_told():
    assert in_language("the disk is full", "zh") == "出错了：the disk is full"
