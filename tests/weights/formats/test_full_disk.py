"""A disk that fills up during a conversion: an error that names the result, and nothing is left behind."""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from dianjing.cli import app
from dianjing.weights.formats.conversion import convert_model
from tests.weights.formats.test_conversion import save_tencent


class FullDisk:
    """A file on a disk with room for 1000 bytes."""

    def __init__(self, file):
        self.file, self.room = file, 1000

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("name", ["out/back.pt", "out/model.safetensors", "out/deep/folder"])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch, name):
    save_tencent(tmp_path / "model.pt")
    convert_model(tmp_path / "model.pt", tmp_path / "transformer")
    before, plain_open = sorted(tmp_path.rglob("*")), Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", **rest: (
            FullDisk(plain_open(self, mode)) if mode == "wb" else plain_open(self, mode, **rest)
        ),
    )
    with pytest.raises(OSError, match="No space left") as error:
        convert_model(tmp_path / "transformer", tmp_path / name)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / name)  # which the message says
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("from_base", [False, True])
def test_a_disk_that_fills_up_while_components_are_copied_leaves_nothing_behind(
    tmp_path, tiny_folder, monkeypatch, capsys, from_base
):
    source, out = tiny_folder, tmp_path / "deep" / "half"
    if from_base:
        source = tmp_path / "transformer"
        shutil.copytree(tiny_folder / "transformer", source)
    before, copied = sorted(tmp_path.rglob("*")), []

    def copy(start, target, **rest):
        copied.append(start)
        if len(copied) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(start), None, str(target))
        return shutil.copyfile(start, target)

    monkeypatch.setattr(shutil, "copy2", copy)
    with pytest.raises(OSError, match="No space left") as error:
        convert_model(source, out, dtype="fp16", base=tiny_folder if from_base else None)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(out))
    assert sorted(tmp_path.rglob("*")) == before
    base = ["--base", str(tiny_folder)] if from_base else []
    monkeypatch.setattr(sys, "argv", ["dianjing", "convert", str(source), str(out), "--dtype", "fp16", *base])
    with pytest.raises(SystemExit):
        app.main()
    assert f"the disk is full while {out} is written" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
