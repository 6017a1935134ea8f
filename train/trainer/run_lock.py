"""The lock of a run's folder: one process at a time trains there."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dianjing.errors import DianjingError

LOCK_FILE = "run.lock"


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it is missing, and removed if nothing else is written there.

    It is a POSIX record lock: the system releases it when its process ends, however it ends, and data workers do not
    inherit it, so that a killed run can be started again at once.
    Raises: DianjingError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DianjingError("run_folder_in_use", folder=folder) from None
        try:
            yield
        finally:
            if list(folder.iterdir()) == [path]:
                path.unlink()
                folder.rmdir()
