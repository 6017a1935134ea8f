"""A model folder, judged by its files alone: no torch, nothing executed, nothing unpickled.

A folder in diffusers' arrangement holds `model_index.json` and one sub-folder per component with
a config and, for a network, its weights as safetensors.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


PICKLE_SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


REMOTE_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")


ALLOWED_LIBRARIES = ("diffusers", "transformers", "dianjing", "stable_diffusion")  # the last: diffusers' safety checker


class WeightsError(ValueError):
    """A model folder that must not or cannot be loaded, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a pipeline as `model_index.json` names it, with its weight files."""

    name: str
    library: str
    class_name: str
    folder: Path
    files: tuple[Path, ...]


def summarize_names(names: list[str], limit: int = 5) -> str:
    """The first few names for an error, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def read_config_json(path: Path) -> dict:
    """Read a JSON object; refuse one that asks for code from the folder to be run."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; the folder is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} holds a {type(config).__name__}, not a JSON object")
    for key in REMOTE_CODE_KEYS:
        if config.get(key):
            raise WeightsError(
                f"{path} asks for its own code to be run ({key}); Dianjing never runs code that "
                "comes with weights: remove the entry if the standard classes will do"
            )
    return config


def read_tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, from its header alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsError(_describe_wrong_format(path, start))
        raw = start[8:] + file.read(length - 1)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise WeightsError(f"{path} has a damaged header; fetch the file again") from None
    if 8 + length + end != size:
        raise WeightsError(
            f"{path} is {size:,} bytes where its header speaks of {8 + length + end:,}; "
            "the file is cut off or damaged: fetch it again"
        )
    return shapes


def _describe_wrong_format(path: Path, prefix: bytes) -> str:
    # pickle protocols 2 to 5 begin with 0x80 and their number; torch.save writes a zip of pickles
    if re.match(rb"\x80[\x02-\x05]|PK\x03\x04", prefix):
        return (
            f"{path} is a pickle by another name; a pickle can run any code and is never loaded: "
            "get the weights as real safetensors"
        )
    if prefix.startswith(b"version "):
        return f"{path} is a Git LFS pointer, not the file; run `git lfs pull` there"
    return f"{path} is not a safetensors file, or it is damaged; fetch it again"


def get_weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The safetensors a library would load from a component's folder; none for a tokenizer."""
    dot = f".{variant}" if variant else ""
    for stem in ("diffusion_pytorch_model", "model"):
        whole = folder / f"{stem}{dot}.safetensors"
        if whole.is_file():
            return (whole,)
        index = folder / f"{stem}.safetensors.index{dot}.json"
        if index.is_file():
            return tuple(_iterate_shards(index))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsError(
            f"{folder} holds its weights only as pickle ({summarize_names(pickles)}); a pickle can run any "
            "code and is never loaded: get the weights as safetensors"
        )
    return ()


def _iterate_shards(index: Path) -> Iterator[Path]:
    weight_map = read_config_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} names no shards; fetch the file again")
    for name in sorted(set(map(str, weight_map.values()))):
        path = index.parent / name
        if Path(name).name != name:
            raise WeightsError(f"{index} names a file outside its folder ({name!r})")
        if not path.is_file():
            raise WeightsError(f"{path} is missing, which {index.name} names; fetch it")
        yield path


def read_components(folder: Path, variant: str | None = None) -> list[Component]:
    """Read `model_index.json` and every config and header it leads to, or say what is wrong."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise WeightsError(
            f"{folder} is no model folder: it has no model_index.json; give the folder that "
            "`save_pretrained` of a pipeline wrote"
        )
    config = read_config_json(index)
    if not isinstance(config.get("_class_name"), str):
        raise WeightsError(
            f"{index} names no standard pipeline class ({config.get('_class_name')!r}); "
            "pipelines that bring their own code are never run"
        )
    components = []
    for name, value in config.items():
        if not name.startswith("_") and isinstance(value, list):
            component = _read_component(folder, name, value, variant)
            if component is not None:
                components.append(component)
    return components


def _read_component(folder: Path, name: str, index_entry: list, variant: str | None) -> Component | None:
    if index_entry == [None, None]:
        return None
    library, class_name = map(str, index_entry) if len(index_entry) == 2 else ("", "")
    if library.split(".")[0] not in ALLOWED_LIBRARIES:
        raise WeightsError(
            f"{folder / 'model_index.json'} takes {name} from {index_entry!r}; only classes of "
            f"{', '.join(ALLOWED_LIBRARIES)} are loaded"
        )
    part = folder / name
    if Path(name).name != name or not part.is_dir():
        raise WeightsError(f"{part} is missing, which model_index.json names; fetch it")
    for config in sorted(part.glob("*config.json")):
        read_config_json(config)
    files = get_weight_files(part, variant)
    for file in files:
        read_tensor_shapes(file)
    return Component(name=name, library=library, class_name=class_name, folder=part, files=files)
