"""Records of long measurements: what is measured by which command, and on which code.

`python3 run.py verify [NAME ...]` makes them; `test_records.py` fails where one is missing, fails its bounds, or was
made with other code than there is now. Code is compared without its comments and docstrings.
"""

import ast
import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).with_name("results")
MODEL = ("dit/**/*.py", "pipelines/**/*.py", "weights/*.py", "weights/sticker/*/*")
STICKERS = ("train/stickers/**/*",)

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement.

    command: arguments of Python, where {out} stands for a new folder. measures: globs of the files that decide on the
    result. read: what the command left in the folder, or printed, as figures. bounds: figure (dotted) -> least value.
    """

    name: str
    command: tuple[str, ...]
    measures: tuple[str, ...]
    read: Callable[[Path, str], Figures]
    bounds: Mapping[str, float]


def read_json(name: str) -> Callable[[Path, str], Figures]:
    """Read figures from a file of the folder."""
    return lambda out, printed: json.loads((out / name).read_text(encoding="utf-8"))


def read_dialogues(out: Path, printed: str) -> Figures:
    """Figures of an evaluation of conversations, without its single turns."""
    report = json.loads((out / "conversation.json").read_text(encoding="utf-8"))
    return {name: value for name, value in report.items() if name != "results"}


def read_printed_json(out: Path, printed: str) -> Figures:
    """The object that a command printed last."""
    return json.loads(printed[printed.index("{") :])


def read_pytest(out: Path, printed: str) -> Figures:
    """Numbers of passed and failed tests in pytest's last line."""
    words = printed.strip().splitlines()[-1].replace(",", "").split()
    counts = {
        name: int(words[index - 1]) for index, name in enumerate(words) if name in ("passed", "failed", "skipped")
    }
    return {"passed": 0, "failed": 0, "skipped": 0, **counts}


EVALUATION = "dianjing.train.evaluation"
RECORDED = (
    Record(
        name="images",
        command=("-m", f"{EVALUATION}.image_generation", "--count", "50", "--processes", "2", "--out", "{out}"),
        measures=(*MODEL, *STICKERS, "train/evaluation/image_generation.py", "train/evaluation/settings.py"),
        read=read_json("report.json"),
        bounds={"overall.zh": 0.88, "overall.en": 0.88},
    ),
    Record(
        name="videos",
        command=("-m", f"{EVALUATION}.video_generation", "--count", "30", "--processes", "2", "--out", "{out}"),
        measures=(*MODEL, *STICKERS, "train/evaluation/*.py"),
        read=read_json("video_report.json"),
        bounds={},
    ),
    Record(
        name="conversations",
        command=(
            "-m",
            f"{EVALUATION}.conversation",
            "--count",
            "20",
            "--seed",
            "2028",
            "--out",
            "{out}/conversation.json",
        ),
        measures=(*MODEL, *STICKERS, "train/evaluation/*.py"),
        read=read_dialogues,
        bounds={},
    ),
    Record(
        name="server_load",
        command=("-m", "benchmarks.server_load", "--clients", "20", "--seconds", "120"),
        measures=(*MODEL, "demo/**/*.py", "benchmarks/server_load.py"),
        read=read_printed_json,
        bounds={},
    ),
    Record(
        name="slow_tests",
        command=("-m", "pytest", "-m", "slow", "-q", "-p", "no:xdist"),
        measures=("train/trainer/*.py", "train/recipes/*"),
        read=read_pytest,
        bounds={"passed": 1},
    ),
)


def find_measured_files(record: Record) -> list[Path]:
    """The files that decide on a record, sorted; no caches of Python."""
    found = {path for pattern in record.measures for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found if "__pycache__" not in path.parts)


def hash_content(record: Record) -> str:
    """One hash of all the files that decide on a record."""
    digest = hashlib.sha256(" ".join(record.command).encode())
    for path in find_measured_files(record):
        content = normalize_code(path.read_text(encoding="utf-8")) if path.suffix == ".py" else path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}/".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def normalize_code(source: str) -> bytes:
    """A program without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def get_figure(figures: Figures, name: str) -> float:
    """The figure under a dotted name."""
    value: Any = figures
    for part in name.split("."):
        value = value[part]
    return float(value)


def find_failures(record: Record, figures: Figures) -> list[str]:
    """The bounds that the figures miss, as sentences."""
    values = {name: get_figure(figures, name) for name in record.bounds}
    failures = [
        f"{record.name}: {name} is {values[name]:g}; at least {least:g} is required"
        for name, least in record.bounds.items()
        if not values[name] >= least
    ]
    if (failed := figures.get("failed")) and record.read is read_pytest:
        failures.append(f"{record.name}: {failed} tests failed")
    return failures


def read_record(record: Record) -> dict[str, Any]:
    """The committed result. Raises: FileNotFoundError where there is none."""
    return json.loads((RECORDS / f"{record.name}.json").read_text(encoding="utf-8"))


def get_commit() -> str:
    """The commit that is checked out, with "+" where tracked files differ from it."""
    run = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run).stdout.strip()
    return commit + ("+" if changed else "")
