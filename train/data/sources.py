"""Listing of data sets: folders with captions next to the images, tables, archives and saved data sets.

Nothing is unpacked, and no code that comes with data is run.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from dianjing.errors import DianjingError, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.archives import ARCHIVE_SUFFIXES, add_archive
from dianjing.train.data.file_names import COMPRESSED_SUFFIXES, SAMPLE_SUFFIXES, is_junk_name
from dianjing.train.data.listing import DatasetListing, add_files
from dianjing.train.data.samples import LocalFile
from dianjing.train.data.table_rows import TEXT_TABLE_SUFFIXES
from dianjing.train.data.tables import add_parquet, add_saved_dataset, add_text_table

PARQUET_SUFFIX = ".parquet"
DATASET_SUFFIXES = (*TEXT_TABLE_SUFFIXES, PARQUET_SUFFIX, *ARCHIVE_SUFFIXES)


def list_dataset(config: DatasetConfig) -> DatasetListing:
    """List the samples of a data set, in the order of names or rows.

    Raises: DianjingError for a path that is no data set, or an empty one.
    """
    path, listing = config.path, DatasetListing(config)
    if not path.exists():
        raise DianjingError("dataset_missing", path=path.absolute())
    suffix = path.suffix.lower()
    if path.is_dir():
        _add_folder(listing, path)
    elif suffix in ARCHIVE_SUFFIXES:
        add_archive(listing, path)
    elif suffix in TEXT_TABLE_SUFFIXES:
        add_text_table(listing, path)
    elif suffix == PARQUET_SUFFIX:
        add_parquet(listing, [path])
    elif suffix in COMPRESSED_SUFFIXES:
        raise DianjingError("dataset_compressed", path=path)
    else:
        raise DianjingError("dataset_format_unknown", path=path, suffixes=DATASET_SUFFIXES)
    listing.check()
    return listing


def _add_folder(listing: DatasetListing, folder: Path) -> None:
    """Add a saved data set, shards, Parquet files, or files with captions next to them, whichever the folder holds."""
    if (folder / "dataset_dict.json").is_file():
        folder = _choose_split(folder)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        add_saved_dataset(listing, folder)
        return
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(iterate_files(folder))}
    add_files(listing, {name: LocalFile(path) for name, path in paths.items()})
    archives = {name: path for name, path in paths.items() if path.suffix.lower() in ARCHIVE_SUFFIXES}
    if any(name.lower().endswith(SAMPLE_SUFFIXES) for name in paths):
        listing.unused |= dict.fromkeys(archives, Message("archive_beside_images"))
        return
    for archive in archives.values():
        add_archive(listing, archive)
    if not archives:
        add_parquet(listing, [path for path in paths.values() if path.suffix.lower() == PARQUET_SUFFIX])


def _choose_split(folder: Path) -> Path:
    """The only split of a saved DatasetDict. Raises: DianjingError that lists them if there are several."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DianjingError("dataset_unreadable", path=folder, format="datasets", reason=str(error)) from None
    if len(splits) != 1:
        paths = [str(folder / split) for split in splits]
        raise DianjingError("dataset_with_splits", path=folder, paths=paths)
    return folder / splits[0]


def iterate_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links too, except junk and what is below junk."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else sorted(name for name in folders if not is_junk_name(name))
        if real not in visited:
            yield from (Path(parent, name) for name in names if not is_junk_name(name))
        visited.add(real)
