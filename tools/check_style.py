"""List offenders against the house rules of CONTRIBUTING.md; exit with 1 if there are any.

    python tools/check_style.py [--rule RULE]

The rules: `duplicate-name` (a public class or module-level function is defined once in the repository),
`docstring-opening` (no docstring opens with a bare preposition or relative), `long-file`, `long-function` (the lines of
the signature aside), and `old-word` (identifiers of the vocabulary that the project has left behind).
"""

import argparse
import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("dit", "weights", "pipelines", "train", "demo", "dianjing", "benchmarks", "examples", "tools")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
OPENING = re.compile(r"(Of|As|Where|What|With|Whether)\b")
SHARED_NAMES = {"main"}  # every command has one
OLD_WORDS = Path(__file__).with_name("old_words.txt")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, kw_only=True)
class Offender:
    """One breach of a rule at a line of a file."""

    rule: str
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def find_python_files() -> list[Path]:
    """All tracked and new Python files, relative to the repository; links to the floors are not followed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [Path(name) for name in listed if (ROOT / name).is_file()]


def find_duplicate_names(trees: dict[Path, ast.Module]) -> Iterator[Offender]:
    """Public classes and module-level functions of the source folders that are defined more than once."""
    places: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path, tree in trees.items():
        if path.parts[0] in SOURCE_FOLDERS:
            for node in tree.body:
                if isinstance(node, Definition) and not node.name.startswith("_") and node.name not in SHARED_NAMES:
                    places[node.name].append((path, node.lineno))
    for name, found_at in places.items():
        for path, line in found_at[1:]:
            first = "{}:{}".format(*found_at[0])
            yield Offender(rule="duplicate-name", path=path, line=line, message=f"{name} is also defined at {first}")


def check_tree(path: Path, tree: ast.Module, *, old_words: frozenset[str]) -> Iterator[Offender]:
    """Breaches of the rules that concern one file."""
    offend = partial(Offender, path=path)
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.Module):
            docstring = ast.get_docstring(node) or ""
            if OPENING.match(docstring):
                line = getattr(node, "lineno", 1)
                yield offend(rule="docstring-opening", line=line, message=docstring.split("\n", 1)[0])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.body[0].lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield offend(rule="long-function", line=node.lineno, message=f"{node.name} has {length} lines")
        for identifier in get_identifiers(node):
            if words := old_words & {identifier, *identifier.strip("_").lower().split("_")}:
                line = getattr(node, "lineno", 1)
                yield offend(rule="old-word", line=line, message=f"{identifier} ({', '.join(sorted(words))})")


def get_identifiers(node: ast.AST) -> list[str]:
    """The names that a node defines: functions, classes, parameters, variables and attributes that are assigned."""
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr]
    return []


def find_offenders(paths: Sequence[Path]) -> Iterator[Offender]:
    """Every breach of every rule in these files."""
    lines = OLD_WORDS.read_text(encoding="utf-8").splitlines()
    old_words = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in paths}
    yield from find_duplicate_names(trees)
    for path, tree in trees.items():
        num_lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            yield Offender(rule="long-file", path=path, line=1, message=f"{num_lines} lines")
        yield from check_tree(path, tree, old_words=old_words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rule", help="list the offenders against this rule alone")
    arguments = parser.parse_args()
    offenders = [each for each in find_offenders(find_python_files()) if arguments.rule in (None, each.rule)]
    for offender in offenders:
        print(offender)
    print(f"{len(offenders)} offenders", file=sys.stderr)
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
