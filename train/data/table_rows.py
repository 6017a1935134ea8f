"""Rows of CSV, TSV, JSON and JSON Lines: the file that each names, its captions, and what is wrong with it."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.file_names import MOTION_SUFFIXES, SIDECARS
from dianjing.train.data.samples import Reason, assign_language
from dianjing.train.text_files import normalize_caption

TEXT_TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
FILE_COLUMNS = ("file_name", "image", "file", "path")  # after the image column of the data set
TEXT_COLUMNS = ("text", "caption", "prompt")  # captions in either language
MAX_FIELD_CHARACTERS = 10_000_000  # of a CSV file; above it, a quote is probably missing


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row by its line in the file; `problem` says why it cannot be used."""

    line: int
    file_name: str | None = None
    texts: dict[str, str | None] = field(default_factory=dict)
    sidecars: dict[str, str] = field(default_factory=dict)  # paths by the keys of SIDECARS
    strength: float | None = None
    problem: Reason | None = None


def parse_json(text: str) -> Any:
    """Parse JSON. Raises: DianjingError with line, column and cause."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DianjingError("json_invalid", reason=error.msg, line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise DianjingError("json_invalid", reason="too many nested brackets", line=1, column=1) from None


def read_rows(text: str, suffix: str, config: DatasetConfig) -> Iterator[TableRow]:
    """The rows of a table whose format is that of `suffix`, one of TEXT_TABLE_SUFFIXES.

    Raises: DianjingError for a table that has no rows with files, and for JSON that is no list of objects.
    """
    has_files = False
    for line, content in _read_contents(text, suffix):
        if isinstance(content, Mapping):
            row = make_row(content, config, line=line)
            has_files = has_files or row.file_name is not None or row.problem is not None
            yield row
        else:
            has_files = True
            yield TableRow(line=line, problem=content)
    if not has_files and text.strip():
        _raise_column_missing(text, suffix, config)


def _raise_column_missing(text: str, suffix: str, config: DatasetConfig) -> None:
    columns = next((list(content) for _, content in _read_contents(text, suffix) if isinstance(content, Mapping)), [])
    raise DianjingError("dataset_column_missing", path=config.path, column=config.image_column, columns=columns)


def make_row(content: Mapping[str, Any], config: DatasetConfig, *, line: int) -> TableRow:
    """A row from the values of its columns."""
    columns = (config.image_column, *FILE_COLUMNS)
    file_name = next((content[column] for column in columns if content.get(column)), None)
    if file_name is not None and not isinstance(file_name, str):
        return TableRow(line=line, problem=Message("file_name_type_wrong", value=str(file_name)[:40]))
    try:
        texts = extract_texts(content, config)
    except DianjingError as error:
        return TableRow(line=line, file_name=file_name, problem=error)
    columns_by_key = {key: config.control_image_column if key == "control_image" else key for key in SIDECARS}
    sidecars = {key: str(content[column]) for key, column in columns_by_key.items() if content.get(column)}
    try:
        strength = None if content.get("strength") in (None, "") else float(content["strength"])
    except (TypeError, ValueError):
        problem = Message("strength_not_a_number", value=str(content["strength"])[:40])
        return TableRow(line=line, file_name=file_name, problem=problem)
    if file_name is not None:
        file_name = file_name.replace("\\", "/")  # tables made on Windows
    return TableRow(line=line, file_name=file_name, texts=texts, sidecars=sidecars, strength=strength)


def extract_texts(content: Mapping[str, Any], config: DatasetConfig) -> dict[str, str | None]:
    """Captions and motions from the columns of a row. Raises: DianjingError for a value that is no text."""
    texts: dict[str, str | None] = {}
    columns = {"text_zh": config.text_zh_column, "text_en": config.text_en_column}
    for key, column in columns.items():
        texts[key] = normalize_caption(content.get(column), field=column)
    if not any(texts.values()):
        for column in TEXT_COLUMNS:
            if caption := normalize_caption(content.get(column), field=column):
                texts |= assign_language(caption)
                break
    for key in MOTION_SUFFIXES.values():
        texts[key] = normalize_caption(content.get(key), field=key)
    return texts


def _read_contents(text: str, suffix: str) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    """Each row's line with its values, or with the reason why it has none."""
    if suffix in (".csv", ".tsv"):
        yield from _read_csv(text, delimiter="\t" if suffix == ".tsv" else ",")
    elif suffix == ".jsonl":
        for line, content in enumerate(text.split("\n"), start=1):  # splitlines() would split at U+2028, too
            if content.strip():
                yield line, _parse_json_line(content)
    else:
        for index, content in enumerate(_list_json_rows(parse_json(text)), start=1):
            yield index, content if isinstance(content, dict) else Message("json_row_not_an_object")


def _read_csv(text: str, *, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [column.strip() for column in next(reader, [])]
        for cells in reader:
            if len(cells) > len(header):
                reason = Message("csv_row_too_long", count=len(cells), columns=len(header))
                yield reader.line_num, reason
            elif cells:
                yield reader.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        yield reader.line_num, Message("csv_invalid", reason=str(error))


def _parse_json_line(text: str) -> Mapping[str, Any] | Reason:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        column = getattr(error, "colno", 1)
        return Message("json_line_invalid", reason=getattr(error, "msg", "too many nested brackets"), column=column)
    return content if isinstance(content, dict) else Message("json_row_not_an_object")


def _list_json_rows(content: Any) -> list[Any]:
    """The rows of a JSON file: a list of objects, one list in an object, or objects by the names of their files."""
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
        if content and all(isinstance(value, dict) for value in content.values()):
            return [{"file_name": name} | row for name, row in content.items()]
    raise DianjingError("json_without_rows")
