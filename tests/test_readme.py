"""The README's promises are checked: its two commands, its length, both languages alike."""

import os

import pytest

from tests.documentation import READMES, ROOT, find_blocks, find_commands, get_code_shape, get_shape, read_page

MAX_LINES = 150


@pytest.mark.parametrize("name", READMES)
def test_the_readme_opens_with_the_two_commands(name):
    first, second = find_blocks(name, "sh")[:2]
    assert first.text == 'python3 run.py image "草地上的一只小猫"\n'
    assert second.text == "python3 run.py test\n"


def test_ci_calls_exactly_the_second_command():
    lines = [line.strip() for line in read_page(".ci/run").splitlines()]
    assert lines[-1] == find_blocks("README.md", "sh")[1].text.strip()
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("name", READMES)
def test_the_readme_is_short(name):
    assert len(read_page(name).splitlines()) <= MAX_LINES


def test_both_languages_show_the_same_commands_code_and_sections():
    english, chinese = READMES
    assert [get_shape(c) for c in find_commands(english)] == [get_shape(c) for c in find_commands(chinese)]
    assert len({read_page(name).count("\n## ") for name in READMES}) == 1
    codes = [[get_code_shape(block.text) for block in find_blocks(name, "python")] for name in READMES]
    assert codes[0] == codes[1]


@pytest.mark.parametrize("name", READMES)
def test_the_readme_shows_every_command(name):
    from dianjing.cli import app

    known = {command.name or command.callback.__name__ for command in app.app.registered_commands}
    assert {command[1] for command in find_commands(name) if command[0] == "dianjing"} == known
