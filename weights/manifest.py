"""Manifest: the components of a model folder, read from its JSON files and weight headers alone.

A folder in diffusers' arrangement holds `model_index.json` and one sub-folder per component with a config and, for a
network, its weights as safetensors. Nothing is executed or unpickled, and torch is not imported.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dianjing.errors import DianjingError, Message

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
REMOTE_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
ALLOWED_LIBRARIES = ("diffusers", "transformers", "dianjing", "stable_diffusion")  # the last: diffusers' safety checker
MAX_LISTED_NAMES = 5


class WeightsError(DianjingError):
    """A model folder that must not or cannot be loaded, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component of a pipeline as `model_index.json` names it, with its weight files."""

    name: str
    library: str
    class_name: str
    folder: Path
    files: tuple[Path, ...]


def summarize_names(names: Sequence[str | Message], limit: int = MAX_LISTED_NAMES) -> list[str | Message]:
    """Return the first names for an error message, and how many more there are."""
    rest = len(names) - limit
    return [*names[:limit], *([Message("more_items", count=rest)] if rest > 0 else [])]


def read_config_json(path: Path) -> dict:
    """Read a JSON object.

    Raises: WeightsError for a missing or invalid file, and for one that asks for code from the folder to be run.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError("config_missing", path=str(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError("config_unreadable", path=str(path), reason=str(error)) from None
    if not isinstance(config, dict):
        raise WeightsError("config_not_an_object", path=str(path), kind=type(config).__name__)
    for key in REMOTE_CODE_KEYS:
        if config.get(key):
            raise WeightsError("config_asks_for_code", path=str(path), key=key)
    return config


def read_tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor of a safetensors file from its header.

    Raises: WeightsError for a file that is damaged, cut off, or none of this format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(9)
        length = int.from_bytes(prefix[:8], "little")
        if prefix[8:] != b"{" or length > min(MAX_HEADER_BYTES, size - 8):
            raise _make_format_error(path, prefix)
        raw = prefix[8:] + file.read(length - 1)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise WeightsError("safetensors_header_damaged", path=str(path)) from None
    if 8 + length + end != size:
        raise WeightsError("safetensors_truncated", path=str(path), size=size, expected=8 + length + end)
    return shapes


def _make_format_error(path: Path, prefix: bytes) -> WeightsError:
    """Make the error for a file that is no safetensors file, by its first bytes."""
    # pickle protocols 2 to 5 begin with 0x80 and their number; torch.save writes a zip of pickles
    if re.match(rb"\x80[\x02-\x05]|PK\x03\x04", prefix):
        return WeightsError("weights_are_pickle", path=str(path))
    if prefix.startswith(b"version "):
        return WeightsError("git_lfs_pointer", path=str(path))
    return WeightsError("not_safetensors", path=str(path))


def get_weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """Return the safetensors files that a library loads from a component's folder; none for a tokenizer.

    Raises: WeightsError for weights that exist only as pickle, or shards that are missing.
    """
    suffix = f".{variant}" if variant else ""
    for stem in ("diffusion_pytorch_model", "model"):
        single_file = folder / f"{stem}{suffix}.safetensors"
        if single_file.is_file():
            return (single_file,)
        index = folder / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            return tuple(_iterate_shards(index))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsError("weights_only_as_pickle", folder=str(folder), names=summarize_names(pickles))
    return ()


def check_weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """Return the safetensors files that a library loads from a component's folder, whose headers are checked.

    Raises: WeightsError also for a file that is damaged or cut off.
    """
    files = get_weight_files(folder, variant)
    for file in files:
        read_tensor_shapes(file)
    return files


def _iterate_shards(index: Path) -> Iterator[Path]:
    """Yield the files that an index of shards names."""
    weight_map = read_config_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError("index_names_no_shards", path=str(index))
    for name in sorted(set(map(str, weight_map.values()))):
        path = index.parent / name
        if Path(name).name != name:
            raise WeightsError("shard_outside_folder", path=str(index), name=name)
        if not path.is_file():
            raise WeightsError("shard_missing", path=str(path), index=index.name)
        yield path


def read_components(folder: Path, variant: str | None = None) -> list[Component]:
    """Read `model_index.json` with every config and weight header that it leads to.

    Raises: WeightsError that says what is wrong.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise WeightsError("not_a_model_folder", folder=str(folder))
    config = read_config_json(index)
    if not isinstance(config.get("_class_name"), str):
        raise WeightsError("pipeline_class_not_standard", path=str(index), class_name=str(config.get("_class_name")))
    components = []
    for name, index_entry in config.items():
        if not name.startswith("_") and isinstance(index_entry, list) and index_entry != [None, None]:
            components.append(_read_component(folder, name, index_entry, variant))
    return components


def _read_component(folder: Path, name: str, index_entry: list, variant: str | None) -> Component:
    """Read a component: its [library, class] in the index, its configs, and the headers of its weights."""
    library, class_name = map(str, index_entry) if len(index_entry) == 2 else ("", "")
    if library.split(".")[0] not in ALLOWED_LIBRARIES:
        raise WeightsError(
            "component_library_not_allowed",
            path=str(folder / "model_index.json"),
            component=name,
            origin=index_entry,
            allowed=ALLOWED_LIBRARIES,
        )
    component_folder = folder / name
    if Path(name).name != name or not component_folder.is_dir():
        raise WeightsError("component_missing", folder=str(component_folder))
    for config in sorted(component_folder.glob("*config.json")):
        read_config_json(config)
    files = check_weight_files(component_folder, variant)
    return Component(name=name, library=library, class_name=class_name, folder=component_folder, files=files)
