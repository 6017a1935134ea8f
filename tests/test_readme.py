"""The README's promises are checked: its two commands, its links, its example, both languages alike."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README_zh.md"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", read(name), flags=re.DOTALL)


@pytest.mark.parametrize("name", READMES)
def test_the_readme_opens_with_the_two_commands(name):
    first, second = blocks(name, "sh")[:2]
    assert first == 'python3 run.py image "草地上的一只小猫"\n'
    assert second == "python3 run.py test\n"


def test_ci_calls_exactly_the_second_command():
    lines = [line.strip() for line in read(".ci/run").splitlines()]
    assert lines[-1] == blocks("README.md", "sh")[1].strip()
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("name", READMES)
def test_every_linked_file_is_there(name):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", read(name))
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_the_python_example_parses_and_imports_public_names(name):
    import dianjing

    (example,) = blocks(name, "python")
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.ImportFrom) and node.module == "dianjing":
            assert {alias.name for alias in node.names} <= set(dianjing.__all__)


def test_both_languages_show_the_same_commands_and_sections():
    counts = [len(re.findall(r"^## ", read(name), flags=re.MULTILINE)) for name in READMES]
    assert counts[0] == counts[1]
    ours, theirs = ([re.findall(r"^dianjing (\w+)", block, re.M) for block in blocks(name, "sh")] for name in READMES)
    assert ours == theirs


def test_every_command_in_the_readme_exists():
    from dianjing.cli import app

    known = {command.name or command.callback.__name__ for command in app.app.registered_commands}
    shown = {name for block in blocks("README.md", "sh") for name in re.findall(r"^dianjing (\w+)", block, re.M)}
    assert shown == known
