"""The run file: strict, typed TOML. An unknown key fails and names the nearest known one."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.sections import AutoencoderRun, Section, SegmenterRun, SetSection, TextToImageRun

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


S = TypeVar("S", bound=BaseModel)
Run = AutoencoderRun | SegmenterRun | TextToImageRun | FinetuneRun
RUNS: dict[str, type[Run]] = {
    "finetune": FinetuneRun,
    "autoencoder": AutoencoderRun,
    "segmenter": SegmenterRun,
    "text_to_image": TextToImageRun,
}


def read_config(path: Path, overrides: Sequence[str] = ()) -> Run:
    """The run described by a TOML file and `a.b=c` overrides.

    A file may begin with `base = "other.toml"`, beside it: what it says itself stands before what the other one says.
    Raises ValueError with one line per mistake: where it is, what was given, what is allowed.
    """
    tree = _read_tree(path)
    for override in overrides:
        _set(tree, override)
    return parse_config(tree, name=str(path))


def _read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in above:
        raise ValueError(f"{path} is its own base, by way of {', '.join(map(str, above))}")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"{path}: base is {base!r}; give the name of a TOML file beside it")
    return _merged(_read_tree(path.parent / base, (*above, path)), tree)


def _merged(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; lists and values are replaced."""
    both = {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in tree.items()
    }
    return {**base, **both}


def parse_config(tree: Mapping[str, Any], *, name: str = "config") -> Run:
    task = tree.get("task")
    if task not in RUNS:
        raise ValueError(f"{name}: task is {task!r}; allowed: {', '.join(RUNS)}")
    return _validated(RUNS[task], tree, name=name)


class SetsFile(Section):
    """The data set file: one table for each data set."""

    sets: tuple[SetSection, ...] = Field(min_length=1)


def read_sets(path: Path) -> tuple[SetSection, ...]:
    """The data sets of a TOML file; their paths are seen from the file.

    Raises ValueError as `read_config`.
    """
    sets = _validated(SetsFile, _read_tree(path), name=str(path)).sets
    return tuple(section.model_copy(update={"path": path.parent / section.path.expanduser()}) for section in sets)


def _validated(model: type[S], tree: Mapping[str, Any], *, name: str) -> S:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistakes = error.errors()
        places = [m["loc"] for m in mistakes]
        lines = [
            _explain(model, m)
            for m in mistakes
            # a list with a bad item is not also a mistake of its own
            if not any(p != m["loc"] and p[: len(m["loc"])] == m["loc"] for p in places)
        ]
        raise ValueError("\n".join(f"{name}: {line}" for line in lines)) from None


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ValueError(f"--set {override!r} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--set {override!r}: {part!r} is a value, not a section")
    tree[last] = value


def _explain(model: type[BaseModel], mistake: Any) -> str:
    *path, last = mistake["loc"] or ("config",)
    where = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        known = list(_fields(model, path))
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    if mistake["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r} is {mistake['input']!r}: {mistake['msg']}"


def _fields(model: type[BaseModel], path: Sequence[str | int]) -> Mapping[str, Any]:
    for part in path:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
    return model.model_fields
