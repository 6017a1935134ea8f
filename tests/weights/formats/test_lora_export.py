"""Adapters written under the names of kohya and ComfyUI: read again, they give the same picture."""

import copy
import shutil
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from dianjing import DianjingError, TextToImagePipeline
from dianjing.cli import app
from dianjing.weights.formats.lora_export import convert_adapter

FILE_NAME = "adapter_model.safetensors"
TARGETS = ["attn1.to_q", "attn1.to_v", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "norm_out.linear", "attn1.to_out.0"]


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return TextToImagePipeline.from_pretrained(tiny_folder)


def save_adapter(pipe, folder, **options):
    torch.manual_seed(0)
    options = {"r": 2, "lora_alpha": 6, "target_modules": TARGETS, "init_lora_weights": False, **options}
    model = get_peft_model(copy.deepcopy(pipe.transformer), LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def generate_with(pipe, source):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = noise[..., : pipe.transformer.config.sample_size, : pipe.transformer.config.sample_size]
    pipe.load_lora_weights(source)
    latents = pipe("cat", num_inference_steps=1, latents=noise, output_type="latent").images
    pipe.unload_lora_weights()
    return latents


@pytest.mark.parametrize("to", ["kohya", "comfyui", "diffusers"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"attn1.to_q": 4}, "alpha_pattern": {"attn1.to_v": 1}},
        {"use_dora": True, "target_modules": ["attn1.to_q", "attn1.to_k", "attn1.to_v", "ff.net.2"]},
    ],
    ids=["LoRA", "rslora, patterns", "DoRA"],
)
def test_an_exported_adapter_gives_the_same_picture(pipe, tmp_path, to, options):
    folder = save_adapter(pipe, tmp_path / "adapter", **options)
    report = convert_adapter(folder, tmp_path / "out.safetensors", to=to)
    assert report.components == ("transformer",)
    names = load_file(tmp_path / "out.safetensors").keys()
    first = {"kohya": "lora_unet_blocks_0_attn1_Wqkv.lora_down.weight", "diffusers": "transformer.blocks.0.attn1.to_q"}
    assert any(name.startswith(first.get(to, "diffusion_model.blocks.0.attn1.Wqkv.lora_A.weight")) for name in names)
    expected = generate_with(pipe, folder)
    torch.testing.assert_close(generate_with(pipe, tmp_path / "out.safetensors"), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_shares_its_first_half_is_exported_as_small_as_it_was(pipe, tmp_path):
    generator = torch.Generator().manual_seed(0)
    width = pipe.transformer.inner_dim
    tensors = {
        "blocks.0.attn1.Wqkv.lora_A.weight": torch.randn(2, width, generator=generator),
        "blocks.0.attn1.Wqkv.lora_B.weight": torch.randn(3 * width, 2, generator=generator),
        "blocks.0.attn1.Wqkv.alpha": torch.tensor(6.0),
    }
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "tencent.safetensors")
    convert_adapter(tmp_path / "tencent.safetensors", tmp_path / "kohya.safetensors", to="kohya")
    written = load_file(tmp_path / "kohya.safetensors")
    for part, name in (("down", "A"), ("up", "B")):
        expected = tensors[f"blocks.0.attn1.Wqkv.lora_{name}.weight"]
        assert torch.equal(written[f"lora_unet_blocks_0_attn1_Wqkv.lora_{part}.weight"], expected)
    assert written["lora_unet_blocks_0_attn1_Wqkv.alpha"] == 6.0


def test_the_command_exports_and_leaves_nothing_half_written(pipe, tmp_path, monkeypatch, capsys):
    folder, out = save_adapter(pipe, tmp_path / "adapter"), tmp_path / "out.safetensors"
    command = ["dianjing", "convert", str(folder), str(out), "--to", "kohya"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == str(out)
    out.unlink()
    dora = save_adapter(pipe, tmp_path / "dora", use_dora=True)  # of two parts of a fused projection
    before, content = sorted(tmp_path.iterdir()), (folder / FILE_NAME).read_bytes()
    for source, to, name in (
        (dora, "kohya", "out.safetensors"),
        (folder, "kohya", "out"),
        (folder, "peft", "o.safetensors"),
        (folder / FILE_NAME, "kohya", f"adapter/{FILE_NAME}"),
        (folder, "kohya", f"adapter/{FILE_NAME}"),
        (folder, "kohya", f"dora/{FILE_NAME}"),
    ):
        with pytest.raises(DianjingError):
            convert_adapter(source, tmp_path / name, to=to)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DianjingError, match="make room"):
        convert_adapter(folder, out, to="kohya")
    assert sorted(tmp_path.iterdir()) == before
    assert (folder / FILE_NAME).read_bytes() == content
