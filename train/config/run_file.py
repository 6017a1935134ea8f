"""The run file: strict, typed TOML. An unknown key fails and names the nearest known one."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.base import BaseConfig
from dianjing.train.config.data import DatasetConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.train.config.text_to_image import TextToImageRunConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


S = TypeVar("S", bound=BaseModel)
AnyRunConfig = AutoencoderRunConfig | SegmenterRunConfig | TextToImageRunConfig | FinetuneRunConfig
RUN_CONFIGS: dict[str, type[AnyRunConfig]] = {
    "finetune": FinetuneRunConfig,
    "autoencoder": AutoencoderRunConfig,
    "segmenter": SegmenterRunConfig,
    "text_to_image": TextToImageRunConfig,
}


def read_run_config(path: Path, overrides: Sequence[str] = ()) -> AnyRunConfig:
    """The run described by a TOML file and `a.b=c` overrides.

    A file may begin with `base = "other.toml"`, beside it: what it says itself stands before what the other one says.
    Raises ValueError with one line per mistake: where it is, what was given, what is allowed.
    """
    tree = _read_tree(path)
    for override in overrides:
        _apply_override(tree, override)
    return parse_run_config(tree, name=str(path))


def _read_tree(path: Path, including_paths: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in including_paths:
        raise ValueError(f"{path} is its own base, by way of {', '.join(map(str, including_paths))}")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"{path}: base is {base!r}; give the name of a TOML file beside it")
    return _merge_trees(_read_tree(path.parent / base, (*including_paths, path)), tree)


def _merge_trees(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; lists and values are replaced."""
    both = {
        key: _merge_trees(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in tree.items()
    }
    return {**base, **both}


def parse_run_config(tree: Mapping[str, Any], *, name: str = "config") -> AnyRunConfig:
    task = tree.get("task")
    if task not in RUN_CONFIGS:
        raise ValueError(f"{name}: task is {task!r}; allowed: {', '.join(RUN_CONFIGS)}")
    return _validate(RUN_CONFIGS[task], tree, name=name)


class DatasetsFileConfig(BaseConfig):
    """The data set file: one table for each data set."""

    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)


def read_dataset_configs(path: Path) -> tuple[DatasetConfig, ...]:
    """The data sets of a TOML file; their paths are seen from the file.

    Raises ValueError as `read_config`.
    """
    sets = _validate(DatasetsFileConfig, _read_tree(path), name=str(path)).datasets
    return tuple(section.model_copy(update={"path": path.parent / section.path.expanduser()}) for section in sets)


def _validate(model: type[S], tree: Mapping[str, Any], *, name: str) -> S:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistakes = error.errors()
        places = [m["loc"] for m in mistakes]
        lines = [
            _format_mistake(model, m)
            for m in mistakes
            # a list with a bad item is not also a mistake of its own
            if not any(p != m["loc"] and p[: len(m["loc"])] == m["loc"] for p in places)
        ]
        raise ValueError("\n".join(f"{name}: {line}" for line in lines)) from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
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


def _format_mistake(model: type[BaseModel], mistake: Any) -> str:
    *path, last = mistake["loc"] or ("config",)
    where = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        known = list(_get_fields(model, path))
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    if mistake["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r} is {mistake['input']!r}: {mistake['msg']}"


def _get_fields(model: type[BaseModel], path: Sequence[str | int]) -> Mapping[str, Any]:
    for part in path:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
    return model.model_fields


TEMPLATE_FOLDER = Path(__file__).with_name("templates")


def write_run_templates(path: Path) -> list[Path]:
    """A run file at `path`, and the data set file that it names beside it unless there is one.

    Raises: ValueError where a run file is already.
    """
    if path.exists():
        raise ValueError(f"{path} is there already; give another name")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    datasets = path.parent / "datasets.toml"
    run = (TEMPLATE_FOLDER / "run.toml").read_text(encoding="utf-8")
    run = run.replace('datasets_file = "datasets.toml"', f'datasets_file = "{datasets.as_posix()}"')
    path.write_text(run, encoding="utf-8")
    if datasets.exists():
        return [path]
    datasets.write_text((TEMPLATE_FOLDER / "datasets.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return [path, datasets]
