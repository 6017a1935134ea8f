"""Imports run downwards through the floors only, and are absolute; test names are sentences."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# dit <- weights <- pipelines <- {train, demo} <- dianjing
BELOW = {
    "dit": set(),
    "weights": {"dit"},
    "pipelines": {"dit", "weights"},
    "train": {"dit", "weights", "pipelines"},
    "demo": {"dit", "weights", "pipelines"},
    "dianjing": {"dit", "weights", "pipelines", "train", "demo"},
}
FLOORS = set(BELOW) - {"dianjing"}


def find_sources(folder: str) -> list[Path]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        through_link = folder == "dianjing" and path.relative_to(ROOT / folder).parts[0] in FLOORS
        if not through_link:
            found.append(path)
    return found


def iterate_imports(source: str) -> Iterator[tuple[int, str, int]]:
    """Yield (line, dotted name, level) of all imports; `from a import b` gives a.b, since b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module or ''}.{alias.name}", node.level


def find_violations(floor: str, source: str) -> list[str]:
    """Return the imports of a file that break the order of the floors."""
    found = []
    for line, name, level in iterate_imports(source):
        parts = name.split(".")
        if level:
            found.append(f"{line}: relative import of {name}")
        elif parts[0] in FLOORS:
            found.append(f"{line}: bare import of {name}; write dianjing.{name}")
        elif parts[0] == "dianjing" and len(parts) > 1:
            target = parts[1] if parts[1] in FLOORS else "dianjing"
            allowed = BELOW[floor] | {floor}
            # the version is a constant of the root, and the errors lie below every floor
            if target not in allowed and name != "dianjing.__version__" and not name.startswith("dianjing.errors."):
                found.append(f"{line}: {floor} must not import {name}")
        elif parts[0] == "dianjing" and floor != "dianjing":
            found.append(f"{line}: {floor} must not import the root package")
    return found


@pytest.mark.parametrize("floor", sorted(BELOW))
def test_imports_run_downwards_only(floor):
    found = [
        f"{path.relative_to(ROOT)}:{violation}"
        for path in find_sources(floor)
        for violation in find_violations(floor, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("dit", "from dianjing.pipelines.validation import ImageRequest"),
        ("dit", "from dianjing import train"),
        ("dit", "import dianjing"),
        ("weights", "def f():\n    import dianjing.train.trainer.loop"),
        ("train", "import dianjing.demo"),
        ("demo", "from dianjing.train import loop"),
        ("pipelines", "from dianjing.cli.app import app"),
        ("pipelines", "from . import request"),
        ("dianjing", "import dit"),
        ("dianjing", "from weights.registry import find"),
    ],
)
def test_an_upward_bare_or_relative_import_is_found(floor, source):
    assert find_violations(floor, source)


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("dit", "import torch\nfrom dianjing.dit.rope import angles"),
        ("train", "from dianjing import pipelines"),
        ("pipelines", "from dianjing import __version__"),
        ("dit", "from dianjing.errors import DianjingError"),
        ("dianjing", "from dianjing.cli.doctor import report"),
    ],
)
def test_a_downward_import_is_allowed(floor, source):
    assert not find_violations(floor, source)


def test_every_floor_on_disk_has_its_position_in_the_order():
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_code <= set(BELOW)


def test_test_names_are_sentences():
    """A sentence has at least three words: test_rotation_keeps_length."""
    short = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not re.fullmatch(r"test(_[a-z0-9]+){3,}", node.name)
    ]
    assert not short, "\n".join(short)


@pytest.mark.parametrize("name", ["fast.txt", "longest.txt"])
def test_the_lists_of_test_files_name_files_that_exist(name):
    files = (ROOT / "tests" / name).read_text(encoding="utf-8").split()
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert len(files) == len(set(files))


def test_the_fast_tests_reach_every_floor():
    files = (ROOT / "tests" / "fast.txt").read_text(encoding="utf-8").split()
    assert {Path(file).parts[1] for file in files} >= set(BELOW)
