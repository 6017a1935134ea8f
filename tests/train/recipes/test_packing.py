"""A model folder travels in few bounded files and comes back equal, or not at all."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from dianjing.train.recipes.packing import MAX_FILES, MAX_PARTS, pack, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights.bin").write_bytes(bytes(range(256)) * 300)
    (folder / "model_index.json").write_text('{"a": "点睛"}', encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_comes_back_equal(folder, tmp_path):
    parts = pack(folder, tmp_path / "out", max_part_bytes=40_000)
    assert len(parts) == 3
    assert all(part.stat().st_size <= 40_000 for part in parts)
    unpack(tmp_path / "out", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_a_new_pack_takes_the_place_of_the_old_one(folder, tmp_path):
    out = tmp_path / "out"
    old = pack(folder, out, max_part_bytes=40_000)
    (folder / "vae" / "weights.bin").write_bytes(b"other weights")
    new = pack(folder, out, max_part_bytes=40_000)
    assert not any(part.exists() for part in old)
    assert sorted(path.name for path in out.iterdir()) == sorted([*(part.name for part in new), "bundle.json"])
    unpack(out, tmp_path / "back")
    assert (tmp_path / "back" / "vae" / "weights.bin").read_bytes() == b"other weights"


def test_parts_of_two_packs_and_the_reports_are_within_the_bound():
    assert 2 * MAX_PARTS + 2 <= MAX_FILES  # bundle.json and run.json


def test_what_takes_too_many_parts_is_refused_and_the_old_pack_stays(folder, tmp_path):
    out = tmp_path / "out"
    pack(folder, out, max_part_bytes=40_000)
    (folder / "vae" / "more.bin").write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match=f"at most {MAX_PARTS}"):
        pack(folder, out, max_part_bytes=40_000)
    unpack(out, tmp_path / "back")
    assert "vae/more.bin" not in contents(tmp_path / "back")


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed", "swapped", "no list"])
def test_damaged_parts_are_refused_and_nothing_is_made(folder, tmp_path, damage):
    out = tmp_path / "out"
    first, second, _ = pack(folder, out, max_part_bytes=40_000)
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
    with pytest.raises(ValueError, match="out"):
        unpack(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_no_file_is_written_outside_the_folder(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    data, out = packed.getvalue(), tmp_path / "out"
    out.mkdir()
    (out / "bundle-0.000").write_bytes(data)
    digest = sha256(data).hexdigest()
    parts = [{"file": "bundle-0.000", "bytes": len(data), "sha256": digest}]
    (out / "bundle.json").write_text(json.dumps({"sha256": digest, "parts": parts}))
    with pytest.raises(ValueError, match="escaped"):
        unpack(out, tmp_path / "back")
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path / "back").exists()


def test_a_folder_that_exists_is_not_touched(folder, tmp_path):
    pack(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="exists already"):
        unpack(tmp_path / "out", folder)
