"""A model folder is packed into a few bounded files and comes back equal, or not at all."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from dianjing.errors import DianjingError
from dianjing.train.recipes.packing import MAX_FILES, MAX_PARTS, RESERVED_FILES, pack_folder, unpack_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights.bin").write_bytes(bytes(range(256)) * 300)
    (folder / "model_index.json").write_text('{"a": "点睛"}', encoding="utf-8")
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_packed_folder_comes_back_equal(folder, tmp_path):
    parts = pack_folder(folder, tmp_path / "out", max_part_bytes=40_000)
    assert len(parts) == 3
    assert all(part.stat().st_size <= 40_000 for part in parts)
    unpack_folder(tmp_path / "out", tmp_path / "back")
    assert read_all(tmp_path / "back") == read_all(folder)


def test_a_new_pack_replaces_the_old_one(folder, tmp_path):
    out = tmp_path / "out"
    old = pack_folder(folder, out, max_part_bytes=40_000)
    (folder / "vae" / "weights.bin").write_bytes(b"other weights")
    new = pack_folder(folder, out, max_part_bytes=40_000)
    assert not any(part.exists() for part in old)
    assert sorted(path.name for path in out.iterdir()) == sorted([*(part.name for part in new), "bundle.json"])
    unpack_folder(out, tmp_path / "back")
    assert (tmp_path / "back" / "vae" / "weights.bin").read_bytes() == b"other weights"


def test_parts_of_two_packs_and_the_reports_are_within_the_bound():
    assert 2 * MAX_PARTS + RESERVED_FILES <= MAX_FILES


def test_a_folder_of_too_many_parts_is_refused_and_the_old_pack_stays(folder, tmp_path):
    out = tmp_path / "out"
    pack_folder(folder, out, max_part_bytes=40_000)
    (folder / "vae" / "more.bin").write_bytes(bytes(100_000))
    with pytest.raises(DianjingError, match=f"more than {MAX_PARTS} parts"):
        pack_folder(folder, out, max_part_bytes=40_000)
    unpack_folder(out, tmp_path / "back")
    assert "vae/more.bin" not in read_all(tmp_path / "back")


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed", "swapped", "no list"])
def test_damaged_parts_are_refused_and_nothing_is_written(folder, tmp_path, damage):
    out = tmp_path / "out"
    first, second, _ = pack_folder(folder, out, max_part_bytes=40_000)
    data = first.read_bytes()
    if damage == "missing":
        first.unlink()
    elif damage == "shorter":
        first.write_bytes(data[:-1])
    elif damage == "changed":
        first.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    elif damage == "swapped":
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    else:
        (out / "bundle.json").unlink()
    with pytest.raises(DianjingError, match="out"):
        unpack_folder(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_no_file_is_written_outside_the_folder(tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    data, out = archive.getvalue(), tmp_path / "out"
    out.mkdir()
    (out / "bundle-0.000").write_bytes(data)
    digest = sha256(data).hexdigest()
    parts = [{"file": "bundle-0.000", "bytes": len(data), "sha256": digest}]
    (out / "bundle.json").write_text(json.dumps({"sha256": digest, "parts": parts}))
    with pytest.raises(DianjingError, match="escaped"):
        unpack_folder(out, tmp_path / "back")
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path / "back").exists()


def test_an_existing_folder_is_not_touched(folder, tmp_path):
    pack_folder(folder, tmp_path / "out")
    with pytest.raises(DianjingError, match="already exists"):
        unpack_folder(tmp_path / "out", folder)
