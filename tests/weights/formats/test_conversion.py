"""Conversion between Tencent's files, diffusers' folders and ComfyUI's single files."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DModel
from safetensors.torch import load_file, save_file

from dianjing import TextToImagePipeline
from dianjing.errors import DianjingError
from dianjing.weights.formats.conversion import convert_model
from tests.weights.formats.tencent_reference import TencentHunyuanDiT


def save_tencent(path: Path, *, style: bool = False, wrap: str | None = None) -> TencentHunyuanDiT:
    torch.manual_seed(0)
    model = TencentHunyuanDiT(style=style).eval()
    state = model.state_dict()
    torch.save(state if wrap is None else {wrap: state, "global_steps": 3}, path)
    return model


def assert_equal_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("style", "wrap"), [(True, None), (False, None), (False, "ema"), (False, "module")])
def test_a_converted_checkpoint_computes_what_the_original_does(tmp_path, style, wrap):
    model = save_tencent(tmp_path / "model.pt", style=style, wrap=wrap)
    convert_model(tmp_path / "model.pt", tmp_path / "transformer", sample_size=8)
    converted = HunyuanDiT2DModel.from_pretrained(tmp_path / "transformer").eval()
    x, t = torch.randn(2, 4, 8, 6), torch.tensor([3.0, 800.0])
    text, text_t5 = torch.randn(2, 5, 24), torch.randn(2, 6, 40)
    mask, mask_t5 = torch.arange(5).expand(2, -1) < torch.tensor([[3], [5]]), torch.arange(6).expand(2, -1) < 4
    sizes = torch.tensor([[1024, 768, 1024, 768, 0, 0], [512, 512, 512, 512, 8, 4]])
    with torch.no_grad():
        expected = model(x, t, text, text_t5, mask, mask_t5, sizes)
        output = converted(
            x,
            t,
            encoder_hidden_states=text,
            text_embedding_mask=mask,
            encoder_hidden_states_t5=text_t5,
            text_embedding_mask_t5=mask_t5,
            image_meta_size=sizes if style else None,
            style=torch.zeros(2, dtype=torch.long) if style else None,
            return_dict=False,
        )[0]
    assert (output - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("style", [True, False])
def test_there_and_back_is_bit_equal(tmp_path, style):
    save_tencent(tmp_path / "model.pt", style=style)
    convert_model(tmp_path / "model.pt", tmp_path / "transformer")
    convert_model(tmp_path / "transformer", tmp_path / "back.pt")
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("model.pt", "back.pt"))
    assert_equal_tensors(first, second)


def test_controlnet_goes_there_and_back(tmp_path):
    torch.manual_seed(0)
    controlnet = HunyuanDiT2DControlNetModel(
        in_channels=4,
        patch_size=2,
        hidden_size=32,
        num_attention_heads=2,
        attention_head_dim=16,
        transformer_num_layers=6,
        cross_attention_dim=24,
        cross_attention_dim_t5=40,
        text_len=5,
        text_len_t5=6,
        sample_size=8,
        mlp_ratio=2.0,
        use_style_cond_and_image_meta_size=False,
    )
    controlnet.save_pretrained(tmp_path / "controlnet")
    convert_model(tmp_path / "controlnet", tmp_path / "controlnet.pt")
    names = torch.load(tmp_path / "controlnet.pt", weights_only=True).keys()
    assert {"before_proj.weight", "after_proj_list.1.bias", "blocks.0.attn1.Wqkv.weight"} <= names
    convert_model(tmp_path / "controlnet.pt", tmp_path / "back", sample_size=8)
    back = HunyuanDiT2DControlNetModel.from_pretrained(tmp_path / "back")
    assert_equal_tensors(controlnet.state_dict(), back.state_dict())
    ignored = {"_name_or_path", "_diffusers_version", "_use_default_values", "pooled_projection_dim"}
    for key in back.config.keys() - ignored:
        assert back.config[key] == controlnet.config[key], key


def test_single_file_for_comfyui_goes_there_and_back(tmp_path, tiny_folder):
    convert_model(tiny_folder, tmp_path / "all.safetensors")
    names = load_file(tmp_path / "all.safetensors").keys()
    prefixes = (
        "model.blocks.0.attn1.Wqkv",
        "text_encoders.hydit_clip.transformer.bert.",
        "text_encoders.mt5xl.",
        "vae.",
    )
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
    convert_model(tmp_path / "all.safetensors", tmp_path / "model", base=tiny_folder)
    first, second = (TextToImagePipeline.from_pretrained(folder) for folder in (tiny_folder, tmp_path / "model"))
    for name in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        assert_equal_tensors(getattr(first, name).state_dict(), getattr(second, name).state_dict())


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_folder_is_stored_in_another_dtype(tmp_path, tiny_folder, dtype, stored):
    convert_model(tiny_folder, tmp_path / "model", dtype=dtype)
    first = load_file(tiny_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    second = load_file(tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert_equal_tensors({name: tensor.to(stored) for name, tensor in first.items()}, second)
    assert (tmp_path / "model" / "tokenizer" / "tokenizer_config.json").is_file()


def test_fp8_keeps_norms_and_embeddings_and_draws(tmp_path, tiny_folder):
    convert_model(tiny_folder, tmp_path / "model", dtype="fp8")
    stored = load_file(tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored["blocks.0.attn1.to_q.weight"].dtype == torch.float8_e4m3fn
    wide = [name for name in stored if "norm" in name or name.startswith("pos_embed") or name.endswith("bias")]
    assert {stored[name].dtype for name in wide} == {torch.bfloat16}
    pipe = TextToImagePipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16
    pipe("cat", num_inference_steps=2)


def save_flux(path: Path) -> None:
    save_file({"single_transformer_blocks.0.norm.linear.weight": torch.zeros(2, 2)}, path)


def save_code(path: Path) -> None:
    torch.save({"module": torch.nn.Linear(2, 2)}, path)


def save_cut(path: Path) -> None:
    save_tencent(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def save_cut_safetensors(path: Path) -> None:
    save_file(TencentHunyuanDiT().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def save_part(path: Path) -> None:
    state = TencentHunyuanDiT().state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("final_layer")}, path)


def save_nan(path: Path) -> None:
    model = TencentHunyuanDiT()
    model.final_layer.linear.bias.data[0] = float("nan")
    torch.save(model.state_dict(), path)


@pytest.mark.parametrize(
    ("name", "save", "part_of_message"),
    [
        ("flux.safetensors", save_flux, "Flux"),
        ("module.pt", save_code, "torch.nn.modules.linear.Linear"),
        ("cut.pt", save_cut, "cut.pt"),
        ("cut.safetensors", save_cut_safetensors, "cut.safetensors"),
        ("part.pt", save_part, "proj_out.weight"),
        ("nan.pt", save_nan, "proj_out.bias"),
        ("empty.pt", lambda path: torch.save({}, path), "state dict"),
        ("text.pt", lambda path: path.write_text("weights"), "text.pt"),
        ("model.zip", lambda path: path.write_text("weights"), ".safetensors"),
        ("gone.pt", lambda path: None, "gone.pt"),
    ],
)
def test_sources_that_cannot_be_converted_are_refused_and_leave_nothing(tmp_path, name, save, part_of_message):
    save(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DianjingError, match=part_of_message.replace(".", r"\.")):
        convert_model(tmp_path / name, tmp_path / "model")
    assert sorted(tmp_path.iterdir()) == before


def test_linked_components_are_copied(tmp_path, tiny_folder):
    (tmp_path / "model").mkdir()
    for path in tiny_folder.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    convert_model(str(tmp_path / "model"), str(tmp_path / "half"), dtype="fp16")
    names = {path.relative_to(tiny_folder) for path in tiny_folder.rglob("*")}
    assert {path.relative_to(tmp_path / "half") for path in (tmp_path / "half").rglob("*")} == names
    assert not any(path.is_symlink() for path in (tmp_path / "half").rglob("*"))


def test_a_link_to_the_source_is_the_source(tmp_path):
    save_tencent(tmp_path / "model.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "model.pt")
    with pytest.raises(DianjingError, match="is the source"):
        convert_model(tmp_path / "model.pt", tmp_path / "link.pt")


def test_places_that_cannot_take_the_result_are_refused(tmp_path, monkeypatch):
    source = tmp_path / "model.pt"
    save_tencent(source)
    content = source.read_bytes()
    for out, message in ((source, "is the source"), (tmp_path / "there", "exists already")):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(DianjingError, match=message):
            convert_model(source, out)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 10_000))
    with pytest.raises(DianjingError, match=r"takes \d+\.\d MB, and the disk has 0\.0 MB left; make room"):
        convert_model(source, tmp_path / "model")
    assert source.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "there"]


def test_numbers_too_large_for_a_dtype_are_refused(tmp_path):
    model = TencentHunyuanDiT()
    model.final_layer.linear.bias.data[0] = 1e5
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for out in ("half.pt", "half"):
        with pytest.raises(DianjingError, match=r"final_layer\.linear\.bias|proj_out\.bias"):
            convert_model(tmp_path / "model.pt", tmp_path / out, dtype="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_result_inside_its_source_is_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    with pytest.raises(DianjingError, match="inside it"):
        convert_model(tmp_path / "model", tmp_path / "model" / "half", dtype="fp16")


def test_a_model_with_motion_blocks_stays_a_folder(tmp_path, tiny_video_folder):
    with pytest.raises(DianjingError, match="motion"):
        convert_model(tiny_video_folder, tmp_path / "model.pt")
    convert_model(tiny_video_folder, tmp_path / "model", dtype="bf16")
    config = json.loads((tmp_path / "model" / "transformer" / "config.json").read_text())
    assert config["use_motion_blocks"]
