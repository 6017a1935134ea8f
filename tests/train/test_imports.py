"""Modules of training import each other without circles, and run files are read without data, tasks or models."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

TRAIN = Path(__file__).parents[2] / "train"


def list_imports(path: Path) -> set[str]:
    """Modules of training that a file imports at its top level, as paths below train/ without suffix."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dianjing.train"):
            module = (node.module or "").removeprefix("dianjing.train").removeprefix(".").replace(".", "/")
            names |= {f"{module}/{alias.name}".removeprefix("/") for alias in node.names} | {module}
    return {name for name in names if (TRAIN / f"{name}.py").is_file()}


def test_there_is_no_import_circle():
    graph = {str(path.relative_to(TRAIN).with_suffix("")): list_imports(path) for path in TRAIN.rglob("*.py")}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("config/finetune") < order.index("tasks/finetune") < order.index("run")


def test_run_files_depend_on_nothing_of_training_but_the_decoding_of_text_files():
    imports = {name for path in (TRAIN / "config").glob("*.py") for name in list_imports(path)}
    assert {name for name in imports if not name.startswith("config/")} == {"text_files"}
    assert not list_imports(TRAIN / "text_files.py")
