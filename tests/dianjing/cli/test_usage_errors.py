"""Errors of the command line's parser, in the language of the user."""

import pytest

USAGE_ERRORS = {
    ("image", "--foo"): "--foo",
    ("image", "cat", "--ou"): "--out",
    ("image",): "PROMPT",
    ("image", "cat", "--seed", "abc"): "--seed",
    ("image", "cat", "--seed"): "--seed",
    ("image", "cat", "--json=3"): "--json",
    ("image", "cat", "--source", "nowhere"): "modelscope",
    ("demo", "--port", "99999999"): "65535",
    ("demo", "extra"): "extra",
    ("imag",): "imag",
}


@pytest.mark.parametrize("arguments", USAGE_ERRORS, ids=" ".join)
@pytest.mark.parametrize(("language", "start"), [("en", "error: "), ("zh", "错误：")])
def test_a_usage_error_names_what_is_wrong_in_the_users_language(language, start, arguments, call, monkeypatch):
    monkeypatch.setenv("DIANJING_LANG", language)
    code, out, error = call(*arguments)
    assert (code, out) == (2, "")
    assert error.startswith(start)
    assert USAGE_ERRORS[arguments] in error
    assert "--help" in error
    assert error.count("\n") == 1


def test_a_bare_command_prints_its_help(call):
    code, out, error = call()
    assert code == 2
    assert "animate" in out + error
