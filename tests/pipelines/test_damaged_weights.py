"""Weights beside a model that are cut off, incomplete or not finite are named before anything is loaded."""

import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dianjing import DianjingError, TextToImagePipeline
from dianjing.cli import app
from dianjing.pipelines.control_maps import check_preprocessor
from dianjing.weights.ip_adapter_files import find_image_encoder
from tests.demo.conftest import make_controlnet
from tests.parity.tencent_ip_adapter import EMBED_DIM, make_tensors


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return TextToImagePipeline.from_pretrained(tiny_folder)


@pytest.fixture
def controlnet(tiny_folder, tmp_path):
    make_controlnet(tmp_path / "net", tiny_folder)
    return tmp_path / "net"


@pytest.fixture
def tower(tmp_path):
    """The folder of an image tower whose weights are cut off."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, projection_dim=EMBED_DIM
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "tower")
    cut(tmp_path / "tower" / "model.safetensors")
    return tmp_path / "tower"


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def spoil(path, change):
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(change(tensors, name), path)


@pytest.mark.parametrize(
    ("damage", "message_id"),
    [
        (cut, "safetensors_truncated"),
        (lambda path: spoil(path, lambda t, name: {**t, name: t[name] * torch.nan}), "tensors_not_finite"),
        (lambda path: spoil(path, lambda t, name: {**t, name: t[name][:1]}), "tensor_shapes_mismatch"),
        (lambda path: spoil(path, lambda t, name: {k: v for k, v in t.items() if k != name}), "tensors_missing"),
        (lambda path: spoil(path, lambda t, name: {**t, "extra": t[name] + 0}), "tensors_unknown"),
        (lambda path: torch.save({}, path), "weights_are_pickle"),
        (lambda path: path.rename(path.with_suffix(".bin")), "weights_only_as_pickle"),
    ],
)
def test_a_damaged_controlnet_is_refused(pipe, tiny_folder, controlnet, damage, message_id):
    damage(controlnet / "diffusion_pytorch_model.safetensors")
    for load in (
        lambda: TextToImagePipeline.from_pretrained(tiny_folder, controlnet=controlnet),
        lambda: TextToImagePipeline.from_pipe(pipe, controlnet=[str(controlnet), str(controlnet)]),
    ):
        with pytest.raises(DianjingError) as refusal:
            load()
        assert refusal.value.message_id == message_id


def test_a_controlnet_that_is_not_on_this_machine_is_refused(pipe):
    with pytest.raises(DianjingError, match="nobody/controlnet"):
        TextToImagePipeline.from_pipe(pipe, controlnet="nobody/controlnet")


@pytest.mark.parametrize("name", ["ipa.safetensors", "ipa.pt"])
def test_a_cut_ip_adapter_is_refused(pipe, tmp_path, name):
    tensors = {key: tensor.contiguous().clone() for key, tensor in make_tensors().items()}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
    cut(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(DianjingError, match=name):
            pipe.load_ip_adapter(source)
    assert not pipe._ip_adapters


def test_models_of_pictures_that_are_cut_off_are_refused(tower):
    for check in (
        lambda: find_image_encoder(tower, weights=None),
        lambda: find_image_encoder(tower / "model.safetensors", weights=None),
        lambda: check_preprocessor("depth", folder=str(tower)),
    ):
        with pytest.raises(DianjingError, match=r"model\.safetensors.*cut off"):
            check()


@pytest.mark.parametrize(
    "options",
    [
        "image cat --controlnet canny={net} --control canny=map.png",
        "image cat --ip-adapter ipa.safetensors --ip-adapter-image map.png",
        "image cat --ip-adapter whole.safetensors --ip-adapter-image map.png --ip-adapter-encoder {tower}",
        "image cat --controlnet depth=net --control-from depth=map.png --preprocessor depth={tower}",
        "image cat --lora ipa.safetensors",
        "demo --lora ipa.safetensors",
        "demo --controlnet {net}",
        "demo --ip-adapter ipa.safetensors",
    ],
)
def test_the_command_line_refuses_them_in_one_line(controlnet, tower, tmp_path, monkeypatch, capsys, options):
    for name in ("whole.safetensors", "ipa.safetensors"):
        save_file({key: tensor.contiguous().clone() for key, tensor in make_tensors().items()}, tmp_path / name)
    cut(tmp_path / "ipa.safetensors")
    if "{net}" in options:
        cut(controlnet / "diffusion_pytorch_model.safetensors")
    Image.new("RGB", (32, 32)).save(tmp_path / "map.png")
    monkeypatch.chdir(tmp_path)
    command, *rest = options.format(net=controlnet, tower=tower).split()
    monkeypatch.setattr(sys, "argv", ["dianjing", command, *rest, "--model", "sticker"])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "cut off" in printed
    assert len(printed.strip().splitlines()) == 1
