"""Uploads of the page's visitors: each is found by an unguessable token, and by the visitor who uploaded it alone.

No path that comes in with a request is ever opened: a request names a token, and the store knows the file.
"""

import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from dianjing.demo.errors import BodyTooLongError
from dianjing.demo.limits import ServerLimits
from dianjing.errors import DianjingError

REFERENCE_PATTERN = re.compile(r"upload-([\w-]{43})/[^/\0]{1,120}", re.ASCII)
UNSAFE_CHARACTERS = re.compile(r"[^\w. -]")
MAX_NAME_CHARS = 80
COPY_BYTES = 2**20


@dataclass(kw_only=True)
class Upload:
    """An uploaded file; one that has been read makes room when its visitor uploads more."""

    reference: str
    visitor: str
    path: Path
    size: int
    created_at_s: float
    is_read: bool = False


class UploadStore:
    """Files in a folder that this user alone can read; it is removed with the store.

    parent: the folder in which the store's own is made.
    """

    def __init__(self, limits: ServerLimits, *, parent: str | Path | None = None):
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix="uploads-", dir=parent)).resolve()
        self._uploads: dict[str, Upload] = {}  # by token, oldest first
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def add(self, file: BinaryIO, *, name: str, size: int, visitor: str) -> Upload:
        """Store a copy of a file of `size` bytes.

        Raises: DianjingError for a file that is too large; BodyTooLongError for a visitor with too many unread uploads.
        """
        limits = self.limits
        if size > limits.max_upload_bytes:
            raise DianjingError("upload_too_large", size=size, max_size=limits.max_upload_bytes)
        token = secrets.token_urlsafe(32)
        path = self.root / token / clean_file_name(name)
        upload = Upload(
            reference=f"upload-{token}/{path.name}",
            visitor=visitor,
            path=path,
            size=size,
            created_at_s=time.monotonic(),
        )
        with self._lock:
            self._make_room(upload)
            self._uploads[token] = upload
        try:
            path.parent.mkdir()
            with path.open("xb") as copy:
                shutil.copyfileobj(file, copy, COPY_BYTES)
        except OSError:  # a full disk: to_user_error says so
            with self._lock:
                self._remove(token)
            raise
        return upload

    def find(self, reference: object, *, visitor: str) -> Upload:
        """Look up an upload by its reference.

        Raises: DianjingError("file_not_uploaded") for anything else, and for an upload of another visitor.
        """
        match = REFERENCE_PATTERN.fullmatch(reference) if isinstance(reference, str) else None
        with self._lock:
            self._remove_expired()
            upload = None if match is None else self._uploads.get(match[1])
            if upload is None or upload.visitor != visitor or upload.reference != reference:
                raise DianjingError("file_not_uploaded")
            return upload

    @contextmanager
    def open_path(self, path: object) -> Iterator[Path]:
        """Check that a path is that of an upload, and mark the upload as read afterwards.

        The path comes from `find`, by way of a component. Raises: DianjingError for any other.
        """
        if path is None:
            raise DianjingError("no_file_given")
        with self._lock:
            upload = self._uploads.get(Path(str(path)).parent.name)
            if upload is None or str(upload.path) != str(path):
                raise DianjingError("file_not_uploaded")
        yield upload.path
        upload.is_read = True

    def _make_room(self, upload: Upload) -> None:
        """Remove uploads that have expired or been read, and others' oldest ones above the limit of the server."""
        self._remove_expired()
        own = [(token, other) for token, other in self._uploads.items() if other.visitor == upload.visitor]
        excess = sum(other.size for _, other in own) + upload.size - self.limits.max_upload_bytes_per_visitor
        for token, other in own:
            if excess > 0 and other.is_read:
                excess -= other.size
                self._remove(token)
        if excess > 0:
            raise BodyTooLongError("uploads_too_large", max_size=self.limits.max_upload_bytes_per_visitor)
        excess = sum(other.size for other in self._uploads.values()) + upload.size - self.limits.max_upload_bytes_in_all
        for token, other in list(self._uploads.items()):
            if excess <= 0:
                break
            excess -= other.size
            self._remove(token)

    def _remove_expired(self) -> None:
        expired_before_s = time.monotonic() - self.limits.result_ttl_s
        for token, upload in list(self._uploads.items()):
            if upload.created_at_s < expired_before_s:
                self._remove(token)

    def _remove(self, token: str) -> None:
        upload = self._uploads.pop(token, None)
        if upload is not None:
            shutil.rmtree(upload.path.parent, ignore_errors=True)


def clean_file_name(name: str) -> str:
    """The last part of a file name as any system writes it, without characters that a path or a page could misread."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    cleaned = UNSAFE_CHARACTERS.sub("_", last).strip(". ")
    stem, dot, suffix = cleaned.rpartition(".")
    if not dot:
        stem, suffix = cleaned, ""
    return f"{stem[:MAX_NAME_CHARS] or 'file'}{dot}{suffix[:10]}"
