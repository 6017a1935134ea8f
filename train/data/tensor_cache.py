"""A cache of tensors on disk under content hashes: written once, shared by runs and processes.

A file is either complete or absent. Two writers of one key write the same content, so neither has to wait.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import atomic_file
from dianjing.train.trainer.checkpoint import Tensors

BLOCK_BYTES = 1 << 22
DEFAULT_MEMORY_BYTES = 256 << 20


class LRUCache:
    """The most recently used tensors in memory, up to a total size in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self.entries: OrderedDict[str, Tensors] = OrderedDict()

    def get(self, key: str) -> Tensors | None:
        if (tensors := self.entries.get(key)) is not None:
            self.entries.move_to_end(key)
        return tensors

    def add(self, key: str, tensors: Tensors) -> None:
        self.entries[key] = tensors
        self.used_bytes += count_bytes(tensors)
        while self.used_bytes > self.limit_bytes:
            self.used_bytes -= count_bytes(self.entries.popitem(last=False)[1])


def count_bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


class TensorCache:
    """Tensors by key, one file per key. Recently read ones stay in memory: callers must not modify them."""

    def __init__(self, folder: Path, *, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self.folder, self.memory = folder, LRUCache(memory_bytes)

    def __contains__(self, key: str) -> bool:
        return self._get_path(key).is_file()

    def read(self, key: str) -> Tensors:
        """The tensors of a key. Raises: DianjingError if the file is missing or damaged."""
        if (tensors := self.memory.get(key)) is not None:
            return tensors
        path = self._get_path(key)
        try:
            tensors = load_file(path)
        except FileNotFoundError:
            raise DianjingError("cache_file_missing", path=path) from None
        except (OSError, SafetensorError) as error:
            raise DianjingError("cache_file_damaged", path=path, reason=str(error)) from None
        self.memory.add(key, tensors)
        return tensors

    def write(self, key: str, tensors: Tensors) -> None:
        """Write the tensors of a key. Raises: DianjingError if the folder cannot be written."""
        path = self._get_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except (OSError, SafetensorError) as error:
            raise DianjingError("cache_unwritable", folder=self.folder, reason=str(error)) from None

    def _get_path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def make_cache_key(**parts: Any) -> str:
    """The key of a result: a hash of everything that it depends on."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()


def hash_folders(folders: Iterable[Path]) -> str:
    """The hash of all files directly in these folders, which identifies an encoder or tokenizer."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}/{path.stat().st_size}/".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
