"""The server's log holds no long prompts, and no lines that a visitor has written."""

import logging

import pytest

from dianjing.demo.log import MAX_LOGGED_CHARS, ShorteningFormatter, shorten

PROMPT = "word " * 1000


def format_record(message, *arguments, error=None):
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("dianjing", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    return ShorteningFormatter("%(levelname)s %(name)s: %(message)s").format(record)


def test_messages_are_cut_and_take_one_line():
    line = format_record("a prompt: %s", PROMPT)
    assert line.startswith("WARNING dianjing: a prompt: word word")
    assert len(line) < MAX_LOGGED_CHARS + 30
    assert "\n" not in format_record("path %s", "/a\nERROR root: forged\r\x1b[31m")
    assert shorten("一只小猫") == "一只小猫"


def catch(function):
    with pytest.raises(ValueError, match="bad") as caught:
        function()
    return caught.value


def raise_from_key_error():
    try:
        raise KeyError(f"first {PROMPT}")
    except KeyError as error:
        raise ValueError(f"bad:\n{PROMPT}") from error


def raise_instead_of_key_error():
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("bad") from None


def test_texts_of_exceptions_are_cut_and_their_frames_stay():
    text = format_record("failed", error=catch(raise_from_key_error))
    assert text.count("Traceback") == 2
    assert "in raise_from_key_error" in text
    assert "KeyError: 'first word" in text
    assert "ValueError: bad: word" in text
    assert text.count("word") < 100


def test_an_exception_that_hides_another_is_alone():
    text = format_record("failed", error=catch(raise_instead_of_key_error))
    assert text.count("Traceback") == 1
    assert "KeyError: " not in text
