"""A model folder as few files of bounded size, with their SHA-256, and back.

The folder becomes one uncompressed tar, cut into parts. NAME.json, which is written last and replaced as a whole, lists
the parts: whenever the writer is killed it names parts that are complete.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dianjing.pipelines.media import whole_file

MAX_PART_BYTES = 16_000_000
MAX_FILES = 8  # in the output folder, other files and a replaced pack included
RESERVED_FILES = 2  # of these: the list of parts, and the figures of the run
MAX_PARTS = (MAX_FILES - RESERVED_FILES) // 2  # the old ones are removed after the new ones are there


def pack(folder: Path, out: Path, *, name: str = "bundle", max_part_bytes: int = MAX_PART_BYTES) -> list[Path]:
    """Write `folder` to out/NAME.json and its parts, and remove the parts of an older pack; returns the parts.

    Raises: ValueError where it takes more than MAX_PARTS parts; an older pack then stays.
    """
    packed = _to_tar(folder)
    count = -(-len(packed) // max_part_bytes)
    if count > MAX_PARTS:
        raise ValueError(
            f"{folder} is {len(packed):,} bytes, {count} parts of {max_part_bytes:,}; "
            f"at most {MAX_PARTS} may be written: make the model smaller"
        )
    digest = hashlib.sha256(packed).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    listed: list[Mapping[str, Any]] = []
    for index in range(count):
        part = packed[index * max_part_bytes : (index + 1) * max_part_bytes]
        path = out / f"{name}-{digest[:8]}.{index:03d}"
        with whole_file(path) as temporary:
            Path(temporary).write_bytes(part)
        parts.append(path)
        listed.append({"file": path.name, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
    write_json(out / f"{name}.json", {"sha256": digest, "parts": listed})
    for old in out.glob(f"{name}-*.[0-9][0-9][0-9]"):
        if old not in parts:
            old.unlink()
    return parts


def unpack(out: Path, folder: Path, *, name: str = "bundle") -> None:
    """Make the folder that `pack` wrote to `out` again, whole or not at all.

    Raises: ValueError where the folder exists, or a part is missing, damaged or not what the list says.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; give the name of a folder to be made")
    try:
        manifest = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        digest, parts = str(manifest["sha256"]), list(manifest["parts"])
        packed = b"".join(_read_part(out, part) for part in parts)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{out} holds no readable {name}.json and parts ({error})") from None
    if hashlib.sha256(packed).hexdigest() != digest:
        raise ValueError(f"the parts in {out} do not make up what {name}.json describes")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _from_tar(packed, partial)
    partial.rename(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that is whole or as it was."""
    with whole_file(path) as temporary:
        Path(temporary).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read_part(out: Path, part: Mapping[str, Any]) -> bytes:
    path = out / Path(part["file"]).name
    if path.stat().st_size != part["bytes"]:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes and should have {part['bytes']:,}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the listed one")
    return data


def _to_tar(folder: Path) -> bytes:
    """All files, in order of their names, without times or owners: equal folders give equal bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    return packed.getvalue()


def _from_tar(packed: bytes, folder: Path) -> None:
    """Regular files below `folder` alone: a list of parts proves no good intent."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
        for member in tar:
            inside = PurePosixPath(member.name)
            if not member.isreg() or inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"the pack holds {member.name!r}, which is no file of a model folder")
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(member)
            assert file is not None, "a regular file"
            path.write_bytes(file.read())
