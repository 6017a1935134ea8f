"""Data sets of kohya's sd-scripts: folders named by repeats and class (10_cat), and data set files in TOML or JSON.

Source: sd-scripts, docs/config_README-en.md: a setting of a subset is looked up there, then in its data set, then in
[general]; a folder 10_cat stands for 10 repeats and the class "cat".
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.train.config.run_file import read_toml
from dianjing.train.data.file_names import is_junk_name
from dianjing.train.data.table_rows import parse_json
from dianjing.train.text_files import decode_text

REPEATS_AND_CLASS = re.compile(r"(\d+)_(.*)")
IMAGE_FOLDERS, REGULARIZATION_FOLDERS = ("img", "image"), ("reg",)  # of a training folder, as GUIs for sd-scripts make
SUBSET_KEYS = {  # kohya's settings of a subset -> those of a data set
    "num_repeats": "repeats",
    "class_tokens": "default_caption",
    "caption_extension": "caption_extension",
    "caption_prefix": "caption_prefix",
    "caption_suffix": "caption_suffix",
    "caption_dropout_rate": "caption_dropout",
    "flip_aug": "flip",
}
DATASET_KEYS = {"resolution", "batch_size", "enable_bucket"}  # with a counterpart in the run file
OTHER_KEYS = {"image_dir", "alpha_mask", "is_reg", "subsets", "cache_info"}  # read one by one, or without effect here


@dataclass
class ImportedRun:
    """Data sets by the keys of `DatasetConfig`, settings of the run by "section.key", and what could not be kept."""

    datasets: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[Message] = field(default_factory=list)


def import_kohya_folders(folder: Path) -> ImportedRun | None:
    """The data sets of a folder with subfolders such as 10_cat, itself or below img and reg; None if there are none."""
    parents = [folder, *(folder / name for name in IMAGE_FOLDERS + REGULARIZATION_FOLDERS)]
    found = [path for parent in parents if parent.is_dir() for path in sorted(parent.iterdir()) if _is_kohya_name(path)]
    if not found and _is_kohya_name(folder):
        found = [folder]
    if not found:
        return None
    imported = ImportedRun()
    for path in found:
        match = REPEATS_AND_CLASS.fullmatch(path.name)
        assert match is not None
        settings: dict[str, Any] = {"path": str(path), "repeats": int(match[1])}
        imported.datasets.append(settings | ({"default_caption": match[2].strip()} if match[2].strip() else {}))
        if path.parent.name in REGULARIZATION_FOLDERS:
            imported.notes.append(Message("kohya_regularization", place=path))
    names = {path.name for path in found}
    others = sorted(
        path.name
        for path in ([] if found == [folder] else folder.iterdir())
        if path.name not in {*names, *IMAGE_FOLDERS, *REGULARIZATION_FOLDERS} and not is_junk_name(path.name)
    )
    if others:
        imported.notes.append(Message("kohya_files_left_out", folder=folder, names=others[:5]))
    return imported


def _is_kohya_name(path: Path) -> bool:
    match = REPEATS_AND_CLASS.fullmatch(path.name)
    return match is not None and int(match[1]) > 0 and path.is_dir()  # sd-scripts leaves out folders with 0 repeats


def import_kohya_file(path: Path) -> ImportedRun:
    """The data sets and settings of a data set file of sd-scripts.

    Raises: DianjingError for a file that is no such file, and for a subset without image_dir.
    """
    tree = _read_json(path) if path.suffix.lower() == ".json" else read_toml(path)
    datasets, general = (tree.get(key) for key in ("datasets", "general"))
    general = {} if general is None else general
    has_subsets = isinstance(datasets, list) and all(isinstance(d, dict) and _get_subsets(d) for d in datasets)
    if not datasets or not has_subsets or not isinstance(general, dict):
        raise DianjingError("kohya_file_without_subsets", path=path)
    imported = ImportedRun()
    sizes = [_get_size_px(dataset.get("resolution", general.get("resolution"))) for dataset in datasets]
    if len(set(sizes)) == 1 and sizes[0] is not None:
        imported.settings["data.size_px"] = sizes[0]
    for index, (dataset, size_px) in enumerate(zip(datasets, sizes, strict=True)):
        for number, subset in enumerate(_get_subsets(dataset)):
            place = f"datasets[{index}].subsets[{number}]"
            settings = _convert_subset([subset, dataset, general], path, place)
            if len(set(sizes)) > 1 and size_px is not None:
                settings["size_px"] = size_px
            imported.datasets.append(settings)
    _add_run_settings(imported, [*datasets, general])
    for place, section in _list_sections(tree, datasets):
        imported.notes += _list_notes(section, place)
    return imported


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = parse_json(decode_text(path.read_bytes()))
    except DianjingError as error:
        raise DianjingError("table_unreadable", path=path, reason=error) from None
    return tree if isinstance(tree, dict) else {}


def _get_subsets(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    subsets = dataset.get("subsets")
    return subsets if isinstance(subsets, list) and all(isinstance(subset, dict) for subset in subsets) else []


def _get_size_px(resolution: Any) -> int | None:
    """The side of a square with the area of a resolution, which is a side or (width, height)."""
    sides = resolution if isinstance(resolution, list) else [resolution] * 2
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return round(math.sqrt(sides[0] * sides[1]))


def _convert_subset(sections: list[Mapping[str, Any]], path: Path, place: str) -> dict[str, Any]:
    """The settings of a data set from a subset, its data set and [general], the first that has a key."""
    merged: dict[str, Any] = {}
    for section in reversed(sections):
        merged |= section
    image_dir = sections[0].get("image_dir")
    if not isinstance(image_dir, str):
        raise DianjingError("kohya_subset_without_folder", path=path, place=place)
    folder = path.parent / Path(image_dir).expanduser()
    settings: dict[str, Any] = {"path": str(folder if folder.exists() else Path(image_dir).expanduser().absolute())}
    settings |= {ours: merged[theirs] for theirs, ours in SUBSET_KEYS.items() if merged.get(theirs) not in (None, "")}
    if merged.get("alpha_mask"):
        settings["loss_mask"] = "alpha"
    return settings


def _add_run_settings(imported: ImportedRun, sections: list[Mapping[str, Any]]) -> None:
    batch_sizes = [section["batch_size"] for section in sections if isinstance(section.get("batch_size"), int)]
    if batch_sizes:
        imported.settings["run.batch_size"] = batch_sizes[0]
    if len(set(batch_sizes)) > 1:
        imported.notes.append(Message("kohya_several_batch_sizes", used=batch_sizes[0], values=batch_sizes))
    buckets = {section["enable_bucket"] for section in sections if "enable_bucket" in section}
    if buckets == {False}:
        imported.settings["data.max_aspect_ratio"] = 1.0


def _list_sections(tree: Mapping[str, Any], datasets: list[dict[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every section of the file with its place in it."""
    yield "general", tree.get("general", {})
    for index, dataset in enumerate(datasets):
        yield f"datasets[{index}]", dataset
        for number, subset in enumerate(_get_subsets(dataset)):
            yield f"datasets[{index}].subsets[{number}]", subset
    others = {key: value for key, value in tree.items() if key not in ("general", "datasets")}
    if others:
        yield "file", others


def _list_notes(section: Mapping[str, Any], place: str) -> Iterator[Message]:
    """One message for each setting of a section that has no counterpart and is not switched off."""
    if section.get("is_reg"):
        yield Message("kohya_regularization", place=place)
    known = SUBSET_KEYS.keys() | DATASET_KEYS | OTHER_KEYS
    for key, value in section.items():
        if key == "conditioning_data_dir":
            yield Message("kohya_conditioning_folder", place=place, value=value)
        elif key == "metadata_file":
            yield Message("kohya_metadata_file", place=place, value=value)
        elif (key not in known or (key == "resolution" and _get_size_px(value) is None)) and value:
            yield Message("kohya_setting_unsupported", key=key, place=place, value=str(value))
