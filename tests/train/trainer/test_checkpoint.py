import json
import os
import subprocess
import sys
import time

import pytest
import torch

from dianjing.train.trainer.checkpoint import find_newest_checkpoint, read_checkpoint, save_checkpoint


def save(folder, step, *, keep=3):
    tensors = {"model": {"w": torch.full((64,), float(step))}}
    return save_checkpoint(folder, step, tensors, {"note": "x"}, max_checkpoints=keep)


def test_what_is_saved_is_found(tmp_path):
    save(tmp_path, 10)
    found, skipped = find_newest_checkpoint(tmp_path)
    assert (found.step, skipped) == (10, [])
    assert found.load_state()["note"] == "x"
    assert torch.equal(found.load_tensors("model")["w"], torch.full((64,), 10.0))


def test_no_checkpoint_is_none(tmp_path):
    assert find_newest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_only_the_newest_remain(tmp_path):
    for step in (1, 2, 3, 100_000_000):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-100000000"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "no_manifest"])
def test_damaged_checkpoint_is_skipped_and_named(tmp_path, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2).path
    weights, manifest = newest / "model.safetensors", newest / "manifest.json"
    data = bytearray(weights.read_bytes())
    if damage == "truncate":
        weights.write_bytes(data[:-8])
    elif damage == "flip":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "remove":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        manifest.unlink()
    found, skipped = find_newest_checkpoint(tmp_path)
    assert found.step == 1
    assert len(skipped) == 1
    assert str(newest) in skipped[0]
    with pytest.raises(ValueError, match="step-00000002"):
        read_checkpoint(newest)


def test_partial_save_is_ignored_and_cleaned_up(tmp_path):
    partial = tmp_path / "partial-00000009"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert find_newest_checkpoint(tmp_path) == (None, [])
    save(tmp_path, 10)
    assert not partial.exists()


def test_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1, keep=1)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 2, keep=1)
    assert find_newest_checkpoint(tmp_path)[0].step == 1


def test_killed_inside_a_save_leaves_a_valid_checkpoint(tmp_path):
    code = (
        "import sys, torch, itertools, pathlib\n"
        "from dianjing.train.trainer.checkpoint import save_checkpoint\n"
        "for step in itertools.count(1):\n"
        "    w = {'w': torch.full((1 << 16,), float(step))}\n"
        "    save_checkpoint(pathlib.Path(sys.argv[1]), step, {'model': w}, {}, max_checkpoints=2)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.glob("step-*"))) < 2:
        time.sleep(0.01)
        assert writer.poll() is None
    time.sleep(0.05)
    writer.kill()
    writer.wait()
    found, _ = find_newest_checkpoint(tmp_path)
    assert torch.equal(found.load_tensors("model")["w"], torch.full((1 << 16,), float(found.step)))


def test_nothing_is_pickled(tmp_path):
    path = save(tmp_path, 1).path
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    assert set(json.loads((path / "manifest.json").read_text())["sha256"]) == {"model.safetensors", "state.json"}
