"""One picture of a data set: where its bytes are, and what is said of it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


class Source(Protocol):
    def read(self) -> bytes:
        """Raises OSError."""


@dataclass(frozen=True)
class File:
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar: read from its place, never unpacked."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture inside a table of the `datasets` library, as bytes or as a path."""

    table: Any
    row: int
    column: str

    def read(self) -> bytes:
        cell = self.table[self.row][self.column]
        if cell["bytes"] is not None:
            return cell["bytes"]
        return Path(cell["path"]).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Clicked:
    """What of a film is clicked on, in its first frame, and what that is asked to do."""

    mask: Source  # a picture, white where it is
    motion_zh: str | None
    motion_en: str | None
    strength: float | None  # in picture heights a second; None: as the film has it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture or film with a caption, or a click in its place; `name` is what people know it by."""

    name: str
    source: Source
    text_zh: str | None
    text_en: str | None
    first_frame: Source | None = None  # of a film, in place of its own
    click: Clicked | None = None
    digest: str | None = None  # of its bytes, once they were looked at


def languages_of(text: str) -> dict[str, str | None]:
    """A caption whose language nobody told: Chinese if a Chinese character is in it."""
    is_chinese = HAN.search(text) is not None
    return {"text_zh": text if is_chinese else None, "text_en": None if is_chinese else text}
