"""Output paths and atomic files: a reader sees the old file or the complete new one, never a part."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dianjing.errors import DianjingError


def check_output_path(path: str | Path, *, extensions: Sequence[str] = (".png",)) -> Path:
    """Check, before anything is generated, that a file with one of the extensions can be written at a path.

    Raises: DianjingError for another extension, a symbolic link, a folder, or a parent folder that cannot be used.
    """
    path = Path(path)
    try:
        if path.suffix.lower() not in extensions:
            raise DianjingError("output_extension", path=path, allowed=list(extensions))
        if path.is_symlink():
            raise DianjingError("output_is_link", path=path)
        if path.is_dir():
            raise DianjingError("output_is_folder", path=path)
        check_writable_folder(path.parent)
    except OSError as error:  # a name too long, a loop of links
        raise DianjingError("output_unwritable", path=path, reason=error.strerror) from None
    return path


def check_writable_folder(folder: Path) -> None:
    """Raise DianjingError for a folder that does not exist, is a file or is read-only."""
    if not folder.exists():
        raise DianjingError("folder_missing", folder=folder)
    if not folder.is_dir():
        raise DianjingError("folder_is_file", path=folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DianjingError("folder_read_only", folder=folder)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder and move it to `path` at the end; an error removes it instead."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically; `write` gets it opened in binary mode."""
    with atomic_file(path) as temporary, open(temporary, "xb") as file:
        write(file)
