"""Listing of tables: text tables (CSV, TSV, JSON), Parquet, and data sets saved by the library `datasets`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.train.data.listing import DatasetListing
from dianjing.train.data.samples import ByteSource, LocalFile, TableCell
from dianjing.train.data.table_rows import FILE_COLUMNS, TableRow, make_row, read_rows
from dianjing.train.text_files import decode_text


def add_text_table(listing: DatasetListing, path: Path) -> None:
    """Add the rows of a CSV, TSV, JSON or JSON Lines file, whose paths are relative to its folder.

    Raises: DianjingError for a file that is no such table.
    """
    try:
        text = decode_text(path.read_bytes())
        for row in read_rows(text, path.suffix.lower(), listing.config):
            _add_row(listing, row, name=f"{path.name}:{row.line}", base_folder=path.parent)
    except DianjingError as error:
        if error.message_id == "dataset_column_missing":
            raise
        raise DianjingError("table_unreadable", path=path, reason=error) from None
    except OSError as error:
        raise DianjingError("table_unreadable", path=path, reason=error.strerror or str(error)) from None


def add_parquet(listing: DatasetListing, paths: Sequence[Path]) -> None:
    """Add the rows of Parquet files: images as bytes, as {bytes, path}, or as paths relative to the files' folder."""
    for path in paths:
        datasets = import_datasets()
        try:
            table = datasets.Dataset.from_parquet(str(path))
        except Exception as error:  # the library raises its own errors, and those of Arrow
            raise DianjingError("dataset_unreadable", path=path, format="parquet", reason=str(error)) from None
        _add_table(listing, table, name=path.name, base_folder=path.parent)


def add_saved_dataset(listing: DatasetListing, folder: Path) -> None:
    """Add the rows of a data set that `save_to_disk` has written."""
    try:
        table = import_datasets().load_from_disk(str(folder))
    except Exception as error:
        raise DianjingError("dataset_unreadable", path=folder, format="datasets", reason=str(error)) from None
    _add_table(listing, table, name=folder.name, base_folder=folder)


def import_datasets() -> Any:
    """The library `datasets`. Raises: DianjingError if it is not installed."""
    try:
        import datasets
    except ImportError:
        raise DianjingError("datasets_library_missing") from None
    return datasets


def _add_table(listing: DatasetListing, table: Any, *, name: str, base_folder: Path) -> None:
    """Add the rows of a table of the library `datasets`, with images in cells or named by path."""
    config = listing.config
    column = next((each for each in (config.image_column, *FILE_COLUMNS) if each in table.column_names), None)
    if column is None:
        raise DianjingError(
            "dataset_column_missing", path=config.path, column=config.image_column, columns=table.column_names
        )
    has_images = _holds_images(table.features[column])
    if has_images:
        table = table.cast_column(column, import_datasets().Image(decode=False))
    control_column = config.control_image_column
    has_controls = control_column in table.column_names and _holds_images(table.features[control_column])
    if has_controls:
        table = table.cast_column(control_column, import_datasets().Image(decode=False))
    image_columns = [*([column] if has_images else []), *([control_column] if has_controls else [])]
    rows = table.remove_columns(image_columns) if image_columns else table
    for index, content in enumerate(rows):
        row, row_name = make_row(content, config, line=index + 1), f"{name}:{index + 1}"
        if not has_images:
            _add_row(listing, row, name=row_name, base_folder=base_folder)
        elif row.problem is not None:
            listing.rejected[row_name] = row.problem
        else:
            cell = TableCell(table, index, control_column, base_folder)
            sidecars = {"control_image": cell} if has_controls else {}
            listing.add(row_name, TableCell(table, index, column, base_folder), row.texts, sidecars)


def _holds_images(feature: Any) -> bool:
    """True for a column of images: of the type Image, of bytes, or of {bytes, path}."""
    if isinstance(feature, Mapping):
        return "bytes" in feature
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _add_row(listing: DatasetListing, row: TableRow, *, name: str, base_folder: Path) -> None:
    """Add a row that names its files by paths."""
    if row.problem is not None or row.file_name is None:
        listing.rejected[name] = row.problem or Message("row_without_file")
        return
    paths = {"": base_folder / row.file_name} | {key: base_folder / path for key, path in row.sidecars.items()}
    reason = next((why for path in paths.values() if (why := explain_bad_path(path, base_folder))), None)
    if reason is not None:
        listing.rejected[name] = reason
        return
    sources: dict[str, ByteSource] = {key: LocalFile(path) for key, path in paths.items()}
    listing.add(row.file_name, sources.pop(""), row.texts, sources, row.strength)


def explain_bad_path(path: Path, base_folder: Path) -> Message | None:
    """The reason why a path of a table cannot be used, if there is one."""
    if not path.resolve().is_relative_to(base_folder.resolve()):
        relative_path = path.relative_to(base_folder) if path.is_relative_to(base_folder) else path
        return Message("path_outside_data_set", path=relative_path, folder=base_folder)
    return None if path.is_file() else Message("listed_file_missing", path=path)
