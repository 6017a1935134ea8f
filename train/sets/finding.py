"""What a data set holds: a folder with captions beside the pictures, a table, shards of tar, or a saved data set.

Nothing is unpacked, and no code that comes with data is run.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dianjing.pipelines.film_reading import VIDEOS
from dianjing.train.sections import SetSection
from dianjing.train.sets.entries import Cell, Clicked, Entry, File, Member, Source, languages_of

FILMS = VIDEOS  # animated WebP and GIF are told from pictures when they are opened
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TABLES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
CAPTIONS = {".zh.txt": "text_zh", ".en.txt": "text_en"}  # by the ending; .txt alone may be either
BESIDE = {".mask.png": "mask", ".first.png": "first_frame"}  # of a film, by the ending
MOTIONS = {".motion.zh.txt": "motion_zh", ".motion.en.txt": "motion_en"}  # what the mask is asked to do
NEEDS_DATASETS = "tables and saved data sets take the library `datasets`: pip install 'dianjing[data]'"


@dataclass
class Found:
    """Entries, and by name what was left out and why."""

    entries: list[Entry] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        source: Source,
        texts: Mapping[str, str | None],
        beside: Mapping[str, Source] | None = None,
        strength: float | None = None,
    ) -> None:
        """texts: captions and motions; beside: a mask and a first frame, by their names in BESIDE."""
        beside = beside or {}
        texts = {key: text.strip() if text else None for key, text in texts.items()}
        said, motions = ({key: texts.get(key) or None for key in keys.values()} for keys in (CAPTIONS, MOTIONS))
        click = None
        if "mask" in beside:
            click = Clicked(mask=beside["mask"], strength=strength, **motions)
        if click is not None and not any(motions.values()):
            self.dropped[name] = "a mask without motion_zh or motion_en"
        elif click is None and not any(said.values()):
            self.dropped[name] = "no caption"
        else:
            first_frame = beside.get("first_frame")
            self.entries.append(Entry(name=name, source=source, click=click, first_frame=first_frame, **said))


def find(section: SetSection) -> Found:
    """Everything in one data set, in the order of names or rows.

    Raises: ValueError for a path that is no data set, or an empty one.
    """
    path = section.path
    if not path.exists():
        raise ValueError(f"there is no data set {path}")
    if path.suffix == ".tar":
        found = _find_in_tar([path])
    elif path.suffix in TABLES:
        found = _find_in_table(_load_table(path), section, beside=path.parent)
    elif not path.is_dir():
        raise ValueError(f"{path} is no data set: give a folder, {', '.join(TABLES)} or .tar")
    elif (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        found = _find_in_table(_load_saved(path), section, beside=path)
    elif shards := sorted(path.glob("*.tar")):
        found = _find_in_tar(shards)
    else:
        found = _find_in_folder(path)
    if not found.entries:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.dropped.items())[:3])
        raise ValueError(f"{path} holds no picture with a caption" + (f" ({reasons})" if reasons else ""))
    return found


def _find_in_folder(folder: Path) -> Found:
    found = Found()
    files = (p for p in folder.rglob("*") if p.suffix.lower() in PICTURES + FILMS)
    for path in sorted(p for p in files if not p.name.endswith(tuple(BESIDE))):
        name = str(path.relative_to(folder))
        try:
            texts = _captions({ending: path.with_suffix(ending) for ending in (".txt", *CAPTIONS, *MOTIONS)})
        except UnicodeDecodeError as error:
            found.dropped[name] = f"its caption is not UTF-8 ({error.reason} at byte {error.start})"
            continue
        beside = {key: path.with_suffix(ending) for ending, key in BESIDE.items()}
        found.add(name, File(path), texts, {key: File(other) for key, other in beside.items() if other.is_file()})
    return found


def _captions(files: Mapping[str, Path]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if files[".txt"].is_file():
        texts |= languages_of(files[".txt"].read_text(encoding="utf-8"))
    return texts | {
        key: files[ending].read_text(encoding="utf-8")
        for ending, key in (CAPTIONS | MOTIONS).items()
        if files[ending].is_file()
    }


def _find_in_tar(shards: list[Path]) -> Found:
    """WebDataset's arrangement: members of one sample share their name up to the first dot."""
    found = Found()
    for shard in shards:
        try:
            samples = list(_samples_in(shard))
        except (tarfile.TarError, OSError, EOFError) as error:
            found.dropped[shard.name] = f"cannot be read as tar: {error}"
            continue
        for key, members in samples:
            name = f"{shard.name}!{key}"
            picture = next((ending for ending in members if ending.lower() in PICTURES + FILMS), None)
            if picture is None:
                found.dropped[name] = "no picture"
                continue
            try:
                texts = _texts_in(members)
            except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
                found.dropped[name] = f"its caption cannot be read: {error}"
                continue
            # films are told by their endings
            called = name + picture if picture.lower() in FILMS else name
            found.add(called, members[picture], texts, {k: members[e] for e, k in BESIDE.items() if e in members})
    return found


def _samples_in(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Keys, and by ending the members of each."""
    samples: dict[str, dict[str, Member]] = {}
    with tarfile.open(shard, "r:") as archive:
        for info in archive:
            place = PurePosixPath(info.name)
            if not info.isfile() or place.is_absolute() or ".." in place.parts:
                continue
            stem, dot, ending = place.name.partition(".")
            members = samples.setdefault(str(place.with_name(stem)), {})
            members[dot + ending] = Member(shard, info.offset_data, info.size)
    yield from samples.items()


def _texts_in(members: Mapping[str, Member]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    if ".json" in members:
        content = json.loads(members[".json"].read())
        if isinstance(content, dict):
            texts |= _known_texts(content)
    if ".txt" in members:
        texts = languages_of(members[".txt"].read().decode()) | texts
    named = (CAPTIONS | MOTIONS).items()
    return texts | {key: members[ending].read().decode() for ending, key in named if ending in members}


def _known_texts(row: Mapping[str, Any], columns: tuple[str, str] = ("text_zh", "text_en")) -> dict[str, str | None]:
    zh, en = (row.get(column) for column in columns)
    motions = {key: row.get(key) for key in MOTIONS.values()}
    if zh is None and en is None:
        other = next((row[name] for name in ("text", "caption", "prompt") if isinstance(row.get(name), str)), None)
        return motions if other is None else languages_of(other) | motions
    return {"text_zh": zh, "text_en": en} | motions


def _load_table(path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_dataset(TABLES[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # the library raises its own, pandas' and Arrow's
        raise ValueError(f"{path} cannot be read as {TABLES[path.suffix]}: {error}") from None


def _load_saved(path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a saved data set: {error}") from None


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError(NEEDS_DATASETS) from None
    return datasets


def _find_in_table(table: Any, section: SetSection, *, beside: Path) -> Found:
    """Rows with a path (seen from `beside`) or a picture in the image column, and captions in the others."""
    found, columns = Found(), table.column_names
    if section.image not in columns:
        raise ValueError(f"{section.path} has no column {section.image!r}; it has {', '.join(columns)}")
    is_picture = type(table.features[section.image]).__name__ == "Image"
    if is_picture:
        table = table.cast_column(section.image, _datasets().Image(decode=False))
    rows = table.remove_columns(section.image) if is_picture else table
    for index, row in enumerate(rows):
        texts = _known_texts(row, (section.text_zh, section.text_en))
        name = f"{section.path.name}:{index + 1}"
        if is_picture:
            found.add(name, Cell(table, index, section.image), texts)
            continue
        named = {"": section.image, **{key: key for key in BESIDE.values() if row.get(key)}}
        files = {key: beside / str(row[column]) for key, column in named.items()}
        wrong = next((why for path in files.values() if (why := _wrong(path, beside))), None)
        if wrong is not None:
            found.dropped[name] = wrong
            continue
        sources: dict[str, Source] = {key: File(path) for key, path in files.items()}
        found.add(str(row[section.image]), sources.pop(""), texts, sources, row.get("strength"))
    return found


def _wrong(path: Path, beside: Path) -> str | None:
    """Why a path of a table cannot be followed."""
    if not path.resolve().is_relative_to(beside.resolve()):
        return f"{path.relative_to(beside) if path.is_relative_to(beside) else path} leads out of {beside}"
    return None if path.is_file() else f"there is no file {path}"
