"""The house rules that a machine can check hold everywhere, and the machine sees a breach."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STYLE = runpy.run_path(str(ROOT / "tools" / "check_style.py"))


def test_no_file_offends_against_the_house_rules():
    done = subprocess.run(
        [sys.executable, "tools/check_style.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("docstring-opening", 'def f():\n    """Where the weights are."""\n'),
        ("old-word", "def f(shown_image):\n    return shown_image\n"),
        ("long-function", "def f():\n" + "    x = 1\n" * 61),
    ],
)
def test_a_breach_of_a_rule_is_found(rule, source):
    found = STYLE["check_tree"](Path("dit/a.py"), ast.parse(source), old_words=frozenset({"shown"}))
    assert {offender.rule for offender in found} == {rule}


def test_a_name_that_is_defined_twice_is_found():
    trees = {Path(f"dit/{name}.py"): ast.parse("def load_all():\n    pass\n") for name in "ab"}
    assert [offender.path.name for offender in STYLE["find_duplicate_names"](trees)] == ["b.py"]
