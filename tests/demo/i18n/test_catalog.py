"""Texts of the page: both languages are complete and have the same fields."""

import re
import string

import pytest

from dianjing.demo.i18n.catalog import STATUS_TEXTS, TEXTS, format_status

HAN_PATTERN = re.compile("[一-鿿]")


def get_fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", [*TEXTS, *STATUS_TEXTS])
def test_every_text_exists_in_both_languages(name):
    text = (TEXTS | STATUS_TEXTS)[name]
    assert HAN_PATTERN.search(text.zh)
    assert text.en
    assert not HAN_PATTERN.search(text.en)
    assert get_fields(text.zh) == get_fields(text.en)


def test_a_status_is_filled_in_in_the_readers_language():
    assert format_status("step", "en", step=3, total=8) == "Step 3 of 8"
    assert format_status("step", "zh", step=3, total=8) == "第 3 步，共 8 步"
