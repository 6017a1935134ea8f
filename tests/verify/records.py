"""Records of long measurements: what is measured by which command, and on which code.

`python3 run.py verify [NAME ...]` makes them; `test_records.py` fails where one is missing, fails its bounds, or was
made with other code than there is now. Code is compared without its comments and docstrings.
"""

import ast
import hashlib
import io
import json
import subprocess
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS = Path(__file__).with_name("results")
MODEL = ("dit/**/*.py", "pipelines/*.py", "weights/*.py", "weights/sticker/*/*")
VIDEOS = ("pipelines/video/*.py", "pipelines/segmentation/*.py", "pipelines/prompting/*.py")
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


def read_rates(out: Path, printed: str) -> Figures:
    """Read the rates of dialogues, without their turns."""
    report = read_json("report.json")(out, printed)
    return {name: value for name, value in report.items() if name != "results"}


def read_printed_json(out: Path, printed: str) -> Figures:
    """Read the object that a command printed last."""
    return json.loads(printed[printed.index("{") :])


def read_pytest(out: Path, printed: str) -> Figures:
    """Read the numbers of passed and failed tests from pytest's last line."""
    words = printed.strip().splitlines()[-1].replace(",", "").split()
    counts = {name: int(words[index - 1]) for index, name in enumerate(words) if name in ("passed", "failed")}
    return {"passed": 0, "failed": 0, **counts}


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
        name="sloppy_prompts",
        command=(
            *("-m", f"{EVALUATION}.sloppy_prompts", "--out", "{out}"),
            *("--prompts", "tests/pipelines/prompting/held_out_sloppy_prompts.toml"),
        ),
        measures=(
            *MODEL,
            *STICKERS,
            "pipelines/prompting/**/*",
            "pipelines/conversation/*.py",
            "pipelines/conversation/parsing/*.py",
            "train/evaluation/sloppy_prompts.py",
            "tests/pipelines/prompting/held_out_sloppy_prompts.toml",
        ),
        read=read_json("sloppy_report.json"),
        bounds={"en": 0.90, "zh": 0.90},
    ),
    Record(
        name="videos",
        command=("-m", f"{EVALUATION}.video_generation", "--count", "30", "--processes", "2", "--out", "{out}"),
        measures=(*MODEL, *VIDEOS, *STICKERS, "train/evaluation/video_*.py", "train/evaluation/settings.py"),
        read=read_json("video_report.json"),
        bounds={
            "one_region.zh.motion_accuracy": 0.95,
            "one_region.en.motion_accuracy": 0.95,
            "clicked_region.zh.motion_accuracy": 0.9,
            "clicked_region.en.motion_accuracy": 0.9,
            "two_regions.zh.motion_accuracy": 0.85,
            "two_regions.en.motion_accuracy": 0.85,
            "text_to_video.zh.motion_accuracy": 0.85,
            "text_to_video.en.motion_accuracy": 0.85,
            "text_to_video.zh.object_consistency": 0.85,
            "text_to_video.en.object_consistency": 0.85,
        },
    ),
    Record(
        name="conversations",
        command=("-m", f"{EVALUATION}.conversation", "--count", "40", "--seed", "2028", "--out", "{out}/report.json"),
        measures=(
            *MODEL,
            *STICKERS,
            "pipelines/conversation/**/*.py",
            "pipelines/prompting/*.py",
            "train/evaluation/conversation.py",
            "train/evaluation/dialogue*.py",
            "train/evaluation/paraphrases.py",
        ),
        read=read_rates,
        bounds={"all.edit_applied": 0.85, "languages.zh.edit_applied": 0.85, "languages.en.edit_applied": 0.85},
    ),
    Record(
        name="edits",
        command=(
            *("-m", f"{EVALUATION}.edits", "--count", "100", "--seed", "2029", "--processes", "2"),
            *("--out", "{out}"),
        ),
        measures=(
            *MODEL,
            *STICKERS,
            "pipelines/editing/*.py",
            "pipelines/media/mask.py",
            "pipelines/prompting/**/*",
            "pipelines/conversation/captions.py",
            "pipelines/conversation/parsing/*.py",
            "pipelines/segmentation/*.py",
            "train/evaluation/edits.py",
            "train/evaluation/settings.py",
        ),
        read=read_json("report.json"),
        bounds={"overall.zh": 0.9, "overall.en": 0.9, "rest_identical.zh": 1.0, "rest_identical.en": 1.0},
    ),
    Record(
        name="own_size",
        command=("-m", "benchmarks.own_size", "--out", "{out}"),
        measures=(*VIDEOS, "pipelines/image_to_video.py", "benchmarks/own_size.py"),
        read=read_json("report.json"),
        bounds={"seconds_left": 0, "gib_left": 0},
    ),
    Record(
        name="new_concept",
        command=("-m", "benchmarks.new_concept", "--out", "{out}"),
        measures=(
            *MODEL,
            *STICKERS,
            "train/config/templates/run.toml",
            "train/data/prior_*.py",
            "train/tasks/finetune*.py",
            "train/trainer/loop.py",
            "benchmarks/new_concept.py",
        ),
        read=read_json("report.json"),
        bounds={"concept.after": 20, "concept.absent_before": 22, "prior_accuracy.change": -0.03, "minutes_left": 0},
    ),
    Record(
        name="server_load",
        command=("-m", "benchmarks.server_load", "--clients", "20", "--seconds", "120"),
        measures=("demo/**/*.py", "benchmarks/server_load.py"),
        read=read_printed_json,
        bounds={"num_images": 50},
    ),
    Record(
        name="killed_runs",
        command=("-m", "pytest", "tests/train/test_faults.py", "-m", "slow", "-q", "-p", "no:xdist"),
        measures=("train/trainer/*.py", "tests/train/test_faults.py", "tests/train/killing.py"),
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
    """A program without comments, docstrings and white space, the same under every version of Python."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    spans = [
        (node.body[0].lineno, node.body[0].col_offset, node.body[0].end_lineno, node.body[0].end_col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (row, start), (_, end) = token.start, token.end
            text = token.line
            spans.append((row, len(text[:start].encode()), row, len(text[:end].encode())))
    for first, start, last, end in spans:
        for row in range(first, (last or first) + 1):
            line = lines[row - 1]
            left = start if row == first else 0
            right = (end or 0) if row == last else len(line)
            lines[row - 1] = line[:left] + b" " * (right - left) + line[right:]
    return b"".join(b"".join(lines).split())


def get_figure(figures: Figures, name: str) -> float:
    """The figure under a dotted name."""
    value: Any = figures
    for part in name.split("."):
        value = value[part]
    return float(value)


def find_failures(record: Record, figures: Figures) -> list[str]:
    """The bounds that the figures miss, as sentences."""
    values = {name: get_figure(figures, name) for name in record.bounds}
    return [
        f"{record.name}: {name} is {values[name]:g}; at least {least:g} is required"
        for name, least in record.bounds.items()
        if not values[name] >= least
    ]


def read_record(record: Record) -> dict[str, Any]:
    """The committed result. Raises: FileNotFoundError where there is none."""
    return json.loads((RECORDS / f"{record.name}.json").read_text(encoding="utf-8"))


def get_commit() -> str:
    """The commit that is checked out, with "+" where tracked files differ from it."""
    run = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run).stdout.strip()
    return commit + ("+" if changed else "")
