"""Run files and data set files: strict, typed TOML whose error messages name the key and the nearest known one."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from dianjing.errors import DianjingError, Lines, Message
from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.base import BaseConfig
from dianjing.train.config.data import DatasetConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.mistakes import list_mistakes
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.train.config.text_to_image import TextToImageRunConfig
from dianjing.train.text_files import decode_text

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
TEMPLATE_FOLDER = Path(__file__).with_name("templates")


class DatasetsFileConfig(BaseConfig):
    """A data set file: one table per data set."""

    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)


def read_run_config(path: Path, overrides: Sequence[str] = ()) -> AnyRunConfig:
    """The run described by a TOML file and overrides of the form `a.b=c`.

    A file may begin with `base = "other.toml"`, relative to itself; its own keys take precedence over the base's.
    Raises: DianjingError with one line per mistake: the key, the value, and what is allowed.
    """
    tree = _read_tree(path)
    for override in overrides:
        apply_override(tree, override)
    return parse_run_config(tree, name=str(path))


def _read_tree(path: Path, including_paths: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in including_paths:
        raise DianjingError("config_base_circular", path=path, through=list(including_paths))
    tree = read_toml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise DianjingError("config_base_not_a_name", path=path, base=repr(base))
    return _merge_trees(_read_tree(path.parent / base, (*including_paths, path)), tree)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, with or without a byte order mark.

    Raises: DianjingError that names an encoding that is not UTF-8, and the line of a path with backslashes.
    """
    text = ""
    try:
        text = decode_text(path.read_bytes())
        return tomllib.loads(text)
    except OSError as error:
        reason: object = error.strerror or str(error)
    except DianjingError as error:
        reason = error
    except tomllib.TOMLDecodeError as error:
        reason = _explain_toml_error(text, str(error))
    raise DianjingError("config_file_unreadable", path=path, reason=reason)


def _explain_toml_error(text: str, reason: str) -> Message:
    """The reason of a TOML error, with a hint if its line has a backslash in double quotes."""
    place = re.search(r"at line (\d+)", reason)
    line = int(place[1]) if place else 0
    lines = text.split("\n")
    if 0 < line <= len(lines) and re.search(r'"[^"]*\\', lines[line - 1]):
        return Message("toml_backslash", reason=reason, line=line)
    return Message("toml_invalid", reason=reason)


def _merge_trees(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Merge sections key by key; lists and values of `tree` replace those of `base`."""
    merged = dict(base)
    for key, value in tree.items():
        is_section = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge_trees(base[key], value) if is_section else value
    return merged


def parse_run_config(tree: Mapping[str, Any], *, name: str = "config") -> AnyRunConfig:
    """The run described by a dictionary; `name` identifies it in errors. Raises: DianjingError as `read_run_config`."""
    task = tree.get("task")
    if task not in RUN_CONFIGS:
        raise DianjingError("task_unknown", path=name, task=repr(task), allowed=list(RUN_CONFIGS))
    return validate_config(RUN_CONFIGS[task], tree, name=name)


def read_dataset_configs(path: Path) -> tuple[DatasetConfig, ...]:
    """The data sets of a data set file, with paths made relative to the file.

    Raises: DianjingError as `read_run_config`.
    """
    datasets = validate_config(DatasetsFileConfig, _read_tree(path), name=str(path)).datasets
    return tuple(dataset.model_copy(update={"path": path.parent / dataset.path.expanduser()}) for dataset in datasets)


def validate_config(model: type[S], tree: Mapping[str, Any], *, name: str) -> S:
    """A section from a dictionary; `name` identifies it in errors. Raises: DianjingError as `read_run_config`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise DianjingError("config_invalid", path=name, mistakes=Lines(list_mistakes(model, error))) from None


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set the value of `a.b=c` in a tree. Raises: DianjingError for another form, or a section that is a value."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise DianjingError("override_malformed", override=override)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise DianjingError("override_inside_value", override=override, part=part)
    tree[last] = value
