"""Listing of data sets: folders with captions next to the images, tables, tar shards and saved data sets.

Nothing is unpacked, and no code that comes with data is run.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dianjing.errors import DianjingError, Lines, Message
from dianjing.pipelines.media.video import VIDEO_EXTENSIONS
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.samples import (
    ByteSource,
    LocalFile,
    MotionLabel,
    Reason,
    SampleRecord,
    TableCell,
    TarMember,
    assign_language,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SAMPLE_SUFFIXES = IMAGE_SUFFIXES + VIDEO_EXTENSIONS  # animated WebP and GIF are recognized when they are opened
TABLE_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
CAPTION_SUFFIXES = {".zh.txt": "text_zh", ".en.txt": "text_en"}  # .txt alone may be either language
MOTION_SUFFIXES = {".motion.zh.txt": "motion_zh", ".motion.en.txt": "motion_en"}  # how the masked region moves
MAX_LISTED = 3  # rejected samples in an error message
SIDECARS = {".mask.png": "mask", ".first.png": "first_frame"}  # further images of a video


@dataclass
class DatasetListing:
    """The records of a data set, and reasons for the rejected ones by name."""

    records: list[SampleRecord] = field(default_factory=list)
    rejected: dict[str, Reason] = field(default_factory=dict)

    def add(
        self,
        name: str,
        source: ByteSource,
        texts: Mapping[str, str | None],
        sidecars: Mapping[str, ByteSource] | None = None,
        strength: float | None = None,
    ) -> None:
        """Add a sample, or the reason why it cannot be used.

        `texts` holds captions and motions by the values of CAPTION_SUFFIXES and MOTION_SUFFIXES, `sidecars` a mask
        and a first frame by the values of SIDECARS.
        """
        sidecars = sidecars or {}
        texts = {key: text.strip() if text else None for key, text in texts.items()}
        captions = {key: texts.get(key) or None for key in CAPTION_SUFFIXES.values()}
        motions = {key: texts.get(key) or None for key in MOTION_SUFFIXES.values()}
        label = None
        if "mask" in sidecars:
            label = MotionLabel(mask=sidecars["mask"], strength=strength, **motions)
        if label is not None and not any(motions.values()):
            self.rejected[name] = Message("mask_without_motion")
        elif label is None and not any(captions.values()):
            self.rejected[name] = Message("caption_missing")
        else:
            first_frame = sidecars.get("first_frame")
            self.records.append(
                SampleRecord(name=name, source=source, motion_label=label, first_frame=first_frame, **captions)
            )


def list_dataset(config: DatasetConfig) -> DatasetListing:
    """List the samples of a data set, in the order of names or rows.

    Raises: DianjingError for a path that is no data set, or an empty one.
    """
    path = config.path
    if not path.exists():
        raise DianjingError("dataset_missing", path=path)
    if path.suffix == ".tar":
        listing = _list_tar([path])
    elif path.suffix in TABLE_FORMATS:
        listing = _list_table(_load_table(path), config, base_folder=path.parent)
    elif not path.is_dir():
        raise DianjingError("dataset_format_unknown", path=path, suffixes=[*TABLE_FORMATS, ".tar"])
    elif (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        listing = _list_table(_load_saved(path), config, base_folder=path)
    elif shards := sorted(path.glob("*.tar")):
        listing = _list_tar(shards)
    else:
        listing = _list_folder(path)
    if not listing.records:
        if not listing.rejected:
            raise DianjingError("dataset_empty", path=path)
        listed = list(listing.rejected.items())[:MAX_LISTED]
        problems = Lines(Message("sample_problem", name=name, reason=reason) for name, reason in listed)
        raise DianjingError("dataset_without_samples", path=path, problems=problems)
    return listing


def _list_folder(folder: Path) -> DatasetListing:
    listing = DatasetListing()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SAMPLE_SUFFIXES)
    for path in paths:
        if path.name.endswith(tuple(SIDECARS)):
            continue
        name = str(path.relative_to(folder))
        text_files = {suffix: path.with_suffix(suffix) for suffix in (".txt", *CAPTION_SUFFIXES, *MOTION_SUFFIXES)}
        try:
            texts = _read_texts(text_files)
        except UnicodeDecodeError as error:
            listing.rejected[name] = Message("caption_not_utf8", reason=error.reason, position=error.start)
            continue
        sidecar_paths = {key: path.with_suffix(suffix) for suffix, key in SIDECARS.items()}
        sidecars = {key: LocalFile(sidecar) for key, sidecar in sidecar_paths.items() if sidecar.is_file()}
        listing.add(name, LocalFile(path), texts, sidecars)
    return listing


def _read_texts(files: Mapping[str, Path]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if files[".txt"].is_file():
        texts |= assign_language(files[".txt"].read_text(encoding="utf-8"))
    return texts | {
        key: files[suffix].read_text(encoding="utf-8")
        for suffix, key in (CAPTION_SUFFIXES | MOTION_SUFFIXES).items()
        if files[suffix].is_file()
    }


def _list_tar(shards: list[Path]) -> DatasetListing:
    """List WebDataset shards: files of one sample share their name up to the first dot."""
    listing = DatasetListing()
    for shard in shards:
        try:
            samples = list(_group_members(shard))
        except (tarfile.TarError, OSError, EOFError) as error:
            listing.rejected[shard.name] = Message("tar_unreadable", reason=str(error))
            continue
        for key, members in samples:
            name = f"{shard.name}!{key}"
            suffix = next((suffix for suffix in members if suffix.lower() in SAMPLE_SUFFIXES), None)
            if suffix is None:
                listing.rejected[name] = Message("tar_sample_without_image")
                continue
            try:
                texts = _read_member_texts(members)
            except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are subclasses
                listing.rejected[name] = Message("caption_unreadable", reason=str(error))
                continue
            if suffix.lower() in VIDEO_EXTENSIONS:
                name += suffix  # videos are recognized by the suffix of their name
            sidecars = {key: members[suffix] for suffix, key in SIDECARS.items() if suffix in members}
            listing.add(name, members[suffix], texts, sidecars)
    return listing


def _group_members(shard: Path) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """The samples of a shard: each key with its files by suffix."""
    samples: dict[str, dict[str, TarMember]] = {}
    with tarfile.open(shard, "r:") as archive:
        for info in archive:
            path = PurePosixPath(info.name)
            if not info.isfile() or path.is_absolute() or ".." in path.parts:
                continue
            stem, dot, suffix = path.name.partition(".")
            members = samples.setdefault(str(path.with_name(stem)), {})
            members[dot + suffix] = TarMember(shard, info.offset_data, info.size)
    yield from samples.items()


def _read_member_texts(members: Mapping[str, TarMember]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if ".json" in members:
        content = json.loads(members[".json"].read())
        if isinstance(content, dict):
            texts |= _extract_texts(content)
    if ".txt" in members:
        texts = assign_language(members[".txt"].read().decode()) | texts
    suffixes = (CAPTION_SUFFIXES | MOTION_SUFFIXES).items()
    return texts | {key: members[suffix].read().decode() for suffix, key in suffixes if suffix in members}


def _extract_texts(row: Mapping[str, Any], columns: tuple[str, str] = ("text_zh", "text_en")) -> dict[str, str | None]:
    zh, en = (row.get(column) for column in columns)
    motions = {key: row.get(key) for key in MOTION_SUFFIXES.values()}
    if zh is None and en is None:
        text = next((row[name] for name in ("text", "caption", "prompt") if isinstance(row.get(name), str)), None)
        return motions if text is None else assign_language(text) | motions
    return {"text_zh": zh, "text_en": en} | motions


def _load_table(path: Path) -> Any:
    datasets = _import_datasets()
    try:
        return datasets.load_dataset(TABLE_FORMATS[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # the library raises its own errors, and those of pandas and Arrow
        raise DianjingError(
            "dataset_unreadable", path=path, format=TABLE_FORMATS[path.suffix], reason=str(error)
        ) from None


def _load_saved(path: Path) -> Any:
    datasets = _import_datasets()
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise DianjingError("dataset_unreadable", path=path, format="datasets", reason=str(error)) from None


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DianjingError("datasets_library_missing") from None
    return datasets


def _list_table(table: Any, config: DatasetConfig, *, base_folder: Path) -> DatasetListing:
    """List rows with an image, or a path relative to `base_folder`, in the image column, and captions in others."""
    listing, columns = DatasetListing(), table.column_names
    if config.image_column not in columns:
        raise DianjingError("dataset_column_missing", path=config.path, column=config.image_column, columns=columns)
    has_images = type(table.features[config.image_column]).__name__ == "Image"
    if has_images:
        table = table.cast_column(config.image_column, _import_datasets().Image(decode=False))
    rows = table.remove_columns(config.image_column) if has_images else table
    for index, row in enumerate(rows):
        texts = _extract_texts(row, (config.text_zh_column, config.text_en_column))
        name = f"{config.path.name}:{index + 1}"
        if has_images:
            listing.add(name, TableCell(table, index, config.image_column), texts)
            continue
        file_columns = {"": config.image_column, **{key: key for key in SIDECARS.values() if row.get(key)}}
        paths = {key: base_folder / str(row[column]) for key, column in file_columns.items()}
        reason = next((why for path in paths.values() if (why := _explain_bad_path(path, base_folder))), None)
        if reason is not None:
            listing.rejected[name] = reason
            continue
        sources: dict[str, ByteSource] = {key: LocalFile(path) for key, path in paths.items()}
        listing.add(str(row[config.image_column]), sources.pop(""), texts, sources, row.get("strength"))
    return listing


def _explain_bad_path(path: Path, base_folder: Path) -> Message | None:
    """The reason why a path of a table cannot be used, if there is one."""
    if not path.resolve().is_relative_to(base_folder.resolve()):
        relative_path = path.relative_to(base_folder) if path.is_relative_to(base_folder) else path
        return Message("path_outside_data_set", path=relative_path, folder=base_folder)
    return None if path.is_file() else Message("listed_file_missing", path=path)
