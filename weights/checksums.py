"""Checksums: the file SHA256SUMS of a model folder, in the format of `sha256sum --check`."""

import hashlib
from pathlib import Path

CHECKSUMS_NAME = "SHA256SUMS"
UNCHECKED_NAMES = (CHECKSUMS_NAME, "README.md")  # a model card may change while the model does not


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _list_files(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.is_file() and path.name not in UNCHECKED_NAMES]


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of all files of a model folder but its model card."""
    lines = [f"{_hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in _list_files(folder)]
    (folder / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> list[str]:
    """Compare a model folder with its SHA256SUMS; return one line for each file that differs."""
    lines = (folder / CHECKSUMS_NAME).read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    present = {path.relative_to(folder).as_posix(): path for path in _list_files(folder)}
    differences = [f"{name} is missing" for name in expected if name not in present]
    for name, path in present.items():
        if name not in expected:
            differences.append(f"{name} does not belong to the bundle")
        elif _hash_file(path) != expected[name]:
            differences.append(f"{name} differs from the published bundle")
    return differences
