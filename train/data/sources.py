"""What a data set holds: a folder with captions beside the pictures, a table, shards of tar, or a saved data set.

Nothing is unpacked, and no code that comes with data is run.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dianjing.pipelines.media.video import VIDEO_EXTENSIONS
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.samples import (
    ByteSource,
    LocalFile,
    MotionLabel,
    SampleRecord,
    TableCell,
    TarMember,
    assign_language,
)

VIDEO_SUFFIXES = VIDEO_EXTENSIONS  # animated WebP and GIF are told from pictures when they are opened
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TABLE_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
CAPTION_SUFFIXES = {".zh.txt": "text_zh", ".en.txt": "text_en"}  # by the ending; .txt alone may be either
SIDECARS = {".mask.png": "mask", ".first.png": "first_frame"}  # of a film, by the ending
MOTION_SUFFIXES = {".motion.zh.txt": "motion_zh", ".motion.en.txt": "motion_en"}  # what the mask is asked to do
MISSING_DATASETS_MESSAGE = "tables and saved data sets take the library `datasets`: pip install 'dianjing[data]'"


@dataclass
class DatasetListing:
    """Entries, and by name what was left out and why."""

    records: list[SampleRecord] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        source: ByteSource,
        texts: Mapping[str, str | None],
        sidecars: Mapping[str, ByteSource] | None = None,
        strength: float | None = None,
    ) -> None:
        """texts: captions and motions; beside: a mask and a first frame, by their names in BESIDE."""
        sidecars = sidecars or {}
        texts = {key: text.strip() if text else None for key, text in texts.items()}
        said, motions = (
            {key: texts.get(key) or None for key in keys.values()} for keys in (CAPTION_SUFFIXES, MOTION_SUFFIXES)
        )
        click = None
        if "mask" in sidecars:
            click = MotionLabel(mask=sidecars["mask"], strength=strength, **motions)
        if click is not None and not any(motions.values()):
            self.rejected[name] = "a mask without motion_zh or motion_en"
        elif click is None and not any(said.values()):
            self.rejected[name] = "no caption"
        else:
            first_frame = sidecars.get("first_frame")
            self.records.append(
                SampleRecord(name=name, source=source, motion_label=click, first_frame=first_frame, **said)
            )


def list_dataset(config: DatasetConfig) -> DatasetListing:
    """Everything in one data set, in the order of names or rows.

    Raises: ValueError for a path that is no data set, or an empty one.
    """
    path = config.path
    if not path.exists():
        raise ValueError(f"there is no data set {path}")
    if path.suffix == ".tar":
        found = _list_tar([path])
    elif path.suffix in TABLE_FORMATS:
        found = _list_table(_load_table(path), config, base_folder=path.parent)
    elif not path.is_dir():
        raise ValueError(f"{path} is no data set: give a folder, {', '.join(TABLE_FORMATS)} or .tar")
    elif (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        found = _list_table(_load_saved(path), config, base_folder=path)
    elif shards := sorted(path.glob("*.tar")):
        found = _list_tar(shards)
    else:
        found = _list_folder(path)
    if not found.records:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.rejected.items())[:3])
        raise ValueError(f"{path} holds no picture with a caption" + (f" ({reasons})" if reasons else ""))
    return found


def _list_folder(folder: Path) -> DatasetListing:
    found = DatasetListing()
    files = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    for path in sorted(p for p in files if not p.name.endswith(tuple(SIDECARS))):
        name = str(path.relative_to(folder))
        try:
            texts = _read_captions(
                {ending: path.with_suffix(ending) for ending in (".txt", *CAPTION_SUFFIXES, *MOTION_SUFFIXES)}
            )
        except UnicodeDecodeError as error:
            found.rejected[name] = f"its caption is not UTF-8 ({error.reason} at byte {error.start})"
            continue
        beside = {key: path.with_suffix(ending) for ending, key in SIDECARS.items()}
        found.add(
            name, LocalFile(path), texts, {key: LocalFile(other) for key, other in beside.items() if other.is_file()}
        )
    return found


def _read_captions(files: Mapping[str, Path]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if files[".txt"].is_file():
        texts |= assign_language(files[".txt"].read_text(encoding="utf-8"))
    return texts | {
        key: files[ending].read_text(encoding="utf-8")
        for ending, key in (CAPTION_SUFFIXES | MOTION_SUFFIXES).items()
        if files[ending].is_file()
    }


def _list_tar(shards: list[Path]) -> DatasetListing:
    """WebDataset's arrangement: members of one sample share their name up to the first dot."""
    found = DatasetListing()
    for shard in shards:
        try:
            samples = list(_group_members(shard))
        except (tarfile.TarError, OSError, EOFError) as error:
            found.rejected[shard.name] = f"cannot be read as tar: {error}"
            continue
        for key, members in samples:
            name = f"{shard.name}!{key}"
            picture = next((ending for ending in members if ending.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES), None)
            if picture is None:
                found.rejected[name] = "no picture"
                continue
            try:
                texts = _read_member_texts(members)
            except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
                found.rejected[name] = f"its caption cannot be read: {error}"
                continue
            # films are told by their endings
            called = name + picture if picture.lower() in VIDEO_SUFFIXES else name
            found.add(called, members[picture], texts, {k: members[e] for e, k in SIDECARS.items() if e in members})
    return found


def _group_members(shard: Path) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """Keys, and by ending the members of each."""
    samples: dict[str, dict[str, TarMember]] = {}
    with tarfile.open(shard, "r:") as archive:
        for info in archive:
            place = PurePosixPath(info.name)
            if not info.isfile() or place.is_absolute() or ".." in place.parts:
                continue
            stem, dot, ending = place.name.partition(".")
            members = samples.setdefault(str(place.with_name(stem)), {})
            members[dot + ending] = TarMember(shard, info.offset_data, info.size)
    yield from samples.items()


def _read_member_texts(members: Mapping[str, TarMember]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if ".json" in members:
        content = json.loads(members[".json"].read())
        if isinstance(content, dict):
            texts |= _extract_texts(content)
    if ".txt" in members:
        texts = assign_language(members[".txt"].read().decode()) | texts
    named = (CAPTION_SUFFIXES | MOTION_SUFFIXES).items()
    return texts | {key: members[ending].read().decode() for ending, key in named if ending in members}


def _extract_texts(row: Mapping[str, Any], columns: tuple[str, str] = ("text_zh", "text_en")) -> dict[str, str | None]:
    zh, en = (row.get(column) for column in columns)
    motions = {key: row.get(key) for key in MOTION_SUFFIXES.values()}
    if zh is None and en is None:
        other = next((row[name] for name in ("text", "caption", "prompt") if isinstance(row.get(name), str)), None)
        return motions if other is None else assign_language(other) | motions
    return {"text_zh": zh, "text_en": en} | motions


def _load_table(path: Path) -> Any:
    datasets = _import_datasets()
    try:
        return datasets.load_dataset(TABLE_FORMATS[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # the library raises its own, pandas' and Arrow's
        raise ValueError(f"{path} cannot be read as {TABLE_FORMATS[path.suffix]}: {error}") from None


def _load_saved(path: Path) -> Any:
    datasets = _import_datasets()
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a saved data set: {error}") from None


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError(MISSING_DATASETS_MESSAGE) from None
    return datasets


def _list_table(table: Any, config: DatasetConfig, *, base_folder: Path) -> DatasetListing:
    """Rows with a path (seen from `beside`) or a picture in the image column, and captions in the others."""
    found, columns = DatasetListing(), table.column_names
    if config.image_column not in columns:
        raise ValueError(f"{config.path} has no column {config.image_column!r}; it has {', '.join(columns)}")
    is_picture = type(table.features[config.image_column]).__name__ == "Image"
    if is_picture:
        table = table.cast_column(config.image_column, _import_datasets().Image(decode=False))
    rows = table.remove_columns(config.image_column) if is_picture else table
    for index, row in enumerate(rows):
        texts = _extract_texts(row, (config.text_zh_column, config.text_en_column))
        name = f"{config.path.name}:{index + 1}"
        if is_picture:
            found.add(name, TableCell(table, index, config.image_column), texts)
            continue
        named = {"": config.image_column, **{key: key for key in SIDECARS.values() if row.get(key)}}
        files = {key: base_folder / str(row[column]) for key, column in named.items()}
        wrong = next((why for path in files.values() if (why := _explain_bad_path(path, base_folder))), None)
        if wrong is not None:
            found.rejected[name] = wrong
            continue
        sources: dict[str, ByteSource] = {key: LocalFile(path) for key, path in files.items()}
        found.add(str(row[config.image_column]), sources.pop(""), texts, sources, row.get("strength"))
    return found


def _explain_bad_path(path: Path, base_folder: Path) -> str | None:
    """Why a path of a table cannot be followed."""
    if not path.resolve().is_relative_to(base_folder.resolve()):
        return (
            f"{path.relative_to(base_folder) if path.is_relative_to(base_folder) else path} leads out of {base_folder}"
        )
    return None if path.is_file() else f"there is no file {path}"
