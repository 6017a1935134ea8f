"""Checkpoints that are either complete or absent: tensors in safetensors, the rest in JSON, no pickles.

step-00001000/ holds *.safetensors, state.json and manifest.json (the SHA-256 of every other file). It is written under
a temporary name, synced to disk and renamed; older checkpoints are removed only after that.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dianjing.errors import DianjingError

MANIFEST, STATE_FILE = "manifest.json", "state.json"
FREE_SPACE_MARGIN_BYTES = 16 << 20
_NAME_PATTERN = re.compile(r"step-(\d{8,})")

Tensors = dict[str, Tensor]


class DiskSpaceError(DianjingError):
    """The disk has no room for a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk whose files match its manifest."""

    path: Path
    step: int

    def load_tensors(self, group: str) -> Tensors:
        """The tensors of a group: "model", "ema", "optimizer" or a post-hoc average."""
        return load_file(self.path / f"{group}.safetensors")

    def load_state(self) -> dict[str, Any]:
        return json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))


def save_checkpoint(
    folder: Path, step: int, groups: Mapping[str, Tensors], state: Mapping[str, Any], *, max_checkpoints: int
) -> Checkpoint:
    """Write step-<step> atomically, then remove all but the newest `max_checkpoints`.

    Raises: DiskSpaceError if the disk has no room for it; older checkpoints stay.
    """
    check_disk_space(folder, sum(tensor.nbytes for group in groups.values() for tensor in group.values()))
    target = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, group in groups.items():
        save_file(group, partial / f"{name}.safetensors")
    _write_json(partial / STATE_FILE, {"step": step, **state})
    hashes = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    _write_json(partial / MANIFEST, {"step": step, "sha256": hashes})
    for path in (*partial.iterdir(), partial):
        _fsync(path)
    if target.exists():  # only a checkpoint that was found damaged
        shutil.rmtree(target)
    partial.rename(target)
    _fsync(folder)
    _prune(folder, max_checkpoints=max_checkpoints)
    return Checkpoint(path=target, step=step)


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk of `folder` has room for that many bytes, plus a margin. Raises: DiskSpaceError if not."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + FREE_SPACE_MARGIN_BYTES:
        raise DiskSpaceError(
            "checkpoint_disk_space",
            folder=folder,
            needed_gib=f"{needed_bytes / 2**30:.2f}",
            free_gib=f"{free / 2**30:.2f}",
        )


def find_newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files match its manifest, and the reasons why newer ones were skipped."""
    skipped: list[str] = []
    for _, path in list_checkpoints(folder):
        try:
            return read_checkpoint(path), skipped
        except DianjingError as error:
            skipped.append(str(error))
    return None, skipped


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of each checkpoint folder, newest first; their files are not looked at."""
    if not folder.is_dir():
        return []
    steps = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME_PATTERN.fullmatch(path.name))]
    return sorted(steps, reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint and verify its files. Raises: DianjingError that names a missing or damaged file."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        step, hashes = int(manifest["step"]), dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DianjingError("checkpoint_manifest_unreadable", path=path, manifest=MANIFEST, reason=str(error)) from None
    if STATE_FILE not in hashes:
        raise DianjingError("checkpoint_file_missing", path=path, name=STATE_FILE)
    for name, expected in hashes.items():
        file = path / Path(name).name
        if not file.is_file():
            raise DianjingError("checkpoint_file_missing", path=path, name=name)
        if _sha256(file) != expected:
            raise DianjingError("checkpoint_file_damaged", path=path, name=name)
    return Checkpoint(path=path, step=step)


def _prune(folder: Path, *, max_checkpoints: int) -> None:
    for _, path in list_checkpoints(folder)[max_checkpoints:]:
        shutil.rmtree(path)
    for path in folder.glob("partial-*"):
        shutil.rmtree(path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
