"""A model folder as a few files of bounded size with their SHA-256, and back.

The folder becomes one uncompressed tar archive, cut into parts. NAME.json, which is written last and replaced
atomically, lists the parts, so that it names complete parts whenever the writer is killed.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import atomic_file

MAX_PART_BYTES = 16_000_000
MAX_FILES = 8  # in the output folder, with other files and a replaced pack
RESERVED_FILES = 2  # of these: the list of parts, and the figures of the run
MAX_PARTS = (MAX_FILES - RESERVED_FILES) // 2  # old parts are removed after new ones are written


def pack_folder(folder: Path, out: Path, *, name: str = "bundle", max_part_bytes: int = MAX_PART_BYTES) -> list[Path]:
    """Pack a folder into out/NAME.json and parts, and remove the parts of an older pack; return the parts.

    Raises: DianjingError if it takes more than MAX_PARTS parts; an older pack then stays.
    """
    archive = _make_archive(folder)
    num_parts = -(-len(archive) // max_part_bytes)
    if num_parts > MAX_PARTS:
        raise DianjingError("pack_too_large", folder=folder, size_mb=round(len(archive) / 1e6), max_parts=MAX_PARTS)
    digest = hashlib.sha256(archive).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    listed: list[Mapping[str, Any]] = []
    for index in range(num_parts):
        part = archive[index * max_part_bytes : (index + 1) * max_part_bytes]
        path = out / f"{name}-{digest[:8]}.{index:03d}"
        with atomic_file(path) as temporary:
            temporary.write_bytes(part)
        paths.append(path)
        listed.append({"file": path.name, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
    write_json(out / f"{name}.json", {"sha256": digest, "parts": listed})
    for old in out.glob(f"{name}-*.[0-9][0-9][0-9]"):
        if old not in paths:
            old.unlink()
    return paths


def unpack_folder(out: Path, folder: Path, *, name: str = "bundle") -> None:
    """Restore a folder that `pack_folder` wrote to `out`, completely or not at all.

    Raises: DianjingError if the folder exists, or if a part is missing, damaged or not as listed.
    """
    if folder.exists():
        raise DianjingError("unpack_folder_exists", folder=folder)
    try:
        manifest = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        digest, parts = str(manifest["sha256"]), list(manifest["parts"])
        archive = b"".join(_read_part(out, part) for part in parts)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DianjingError("pack_unreadable", folder=out, name=name, reason=str(error)) from None
    if hashlib.sha256(archive).hexdigest() != digest:
        raise DianjingError("pack_parts_do_not_match", folder=out, name=name)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _extract_archive(archive, partial)
    partial.rename(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read_part(out: Path, part: Mapping[str, Any]) -> bytes:
    """Read a part of a pack. Raises: DianjingError if its content is not as listed."""
    path = out / Path(part["file"]).name
    data = path.read_bytes()
    if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise DianjingError("pack_part_damaged", path=path)
    return data


def _make_archive(folder: Path) -> bytes:
    """Archive all files in the order of their names, without times or owners: equal folders give equal bytes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    return archive.getvalue()


def _extract_archive(archive: bytes, folder: Path) -> None:
    """Extract regular files below a folder, and nothing else, whatever the archive holds.

    Raises: DianjingError for any other member.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            relative = PurePosixPath(member.name)
            if not member.isreg() or relative.is_absolute() or ".." in relative.parts:
                raise DianjingError("pack_holds_foreign_member", name=member.name)
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(member)
            assert file is not None, "a regular file"
            path.write_bytes(file.read())
