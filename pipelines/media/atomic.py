"""Output paths and atomic files: a reader sees the old file or the complete new one, never a part."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def check_output_path(path: str | Path, *, extensions: Sequence[str] = (".png",)) -> Path:
    """Check, before anything is generated, that a file with one of the extensions can be written at a path.

    Raises: ValueError for another extension, a symbolic link, a folder, or a parent folder that cannot be written to.
    """
    path = Path(path)
    try:
        if path.suffix.lower() not in extensions:
            raise ValueError(f"{path} does not end in {', '.join(extensions)}; choose a name that does")
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; name the file it points to")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")
        check_writable_folder(path.parent)
    except OSError as error:  # a name too long, a loop of links
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    return path


def check_writable_folder(folder: Path) -> None:
    """Raise ValueError for a folder that does not exist, is a file or is read-only."""
    if not folder.exists():
        raise ValueError(f"the folder {folder} does not exist; make it first or choose another")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {folder} is read-only for you; choose another place")


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
