"""SHA256SUMS: the bytes of a model folder, in the format that `sha256sum --check` reads."""

import hashlib
from pathlib import Path

CHECKSUMS_NAME = "SHA256SUMS"


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _list_files(folder: Path) -> list[Path]:
    """All files that count: a model card may be edited without touching the model."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.name not in (CHECKSUMS_NAME, "README.md")]


def write_checksums(folder: Path) -> None:
    lines = [f"{_hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in _list_files(folder)]
    (folder / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> list[str]:
    """Return what differs from SHA256SUMS, one line per file; an empty list is good."""
    lines = (folder / CHECKSUMS_NAME).read_text(encoding="utf-8").splitlines()
    wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    present = {path.relative_to(folder).as_posix(): path for path in _list_files(folder)}
    faults = [f"{name} is missing" for name in wanted if name not in present]
    for name, path in present.items():
        if name not in wanted:
            faults.append(f"{name} does not belong to the bundle")
        elif _hash_file(path) != wanted[name]:
            faults.append(f"{name} differs from the bundle that was published")
    return faults
