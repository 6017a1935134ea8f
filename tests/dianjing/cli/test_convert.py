"""The command `dianjing convert` refuses in one line what it cannot convert, and leaves nothing behind."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from dianjing.cli import app


@pytest.fixture
def files(tmp_path):
    lora = {f"blocks.0.attn1.to_q.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"}
    save_file(lora, tmp_path / "lora.safetensors")
    torch.save(lora, tmp_path / "lora.pt")
    save_file(
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 4)}, tmp_path / "flux.safetensors"
    )
    for name in ("lora.safetensors", "lora.pt"):
        (tmp_path / f"cut-{name}").write_bytes((tmp_path / name).read_bytes()[:-40])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.pt model", "check its name"),
        ("lora.pt lora.pt", "is the source"),
        ("lora.pt model", "an adapter is converted with --to"),
        ("cut-lora.pt model", "cut off"),
        ("cut-lora.safetensors model", "download it again"),
        ("cut-lora.safetensors new.safetensors --to kohya", "download it again"),
        ("lora.pt new.safetensors --to kohya", "is a pickle"),
        ("flux.safetensors new.safetensors --to kohya", "for Flux"),
        ("nowhere.safetensors new.safetensors --to kohya", "check its name"),
    ],
)
def test_what_cannot_be_converted_is_refused(files, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "argv", ["dianjing", "convert", *arguments.split()])
    before = sorted(files.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert sorted(files.rglob("*")) == before
