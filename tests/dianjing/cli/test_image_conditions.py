"""`dianjing image` with control images, preprocessors and pictures as prompts: a tiny model with random weights."""

import json

import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image, ImageDraw
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dianjing import TextToImagePipeline
from dianjing.pipelines.control_maps import detect_canny_edges
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.weights.registry import get_controlnet_repository
from tests.demo.conftest import make_controlnet

EMBED_DIM = 10
GENERATE = ("cat", "--seed", "3", "--steps", "2", "--size", "32")


def make_ip_adapter(folder, transformer):
    """Write an IP-Adapter of random weights in Tencent's layout, and its image tower."""
    config = transformer.config
    text_dim, width, head_dim = config.cross_attention_dim, transformer.inner_dim, config.attention_head_dim
    torch.manual_seed(0)
    tensors = {
        "ip_adapter_clip_len_trans_block.weight": torch.randn(8 * text_dim, EMBED_DIM),
        "ip_adapter_clip_len_trans_block.bias": torch.randn(8 * text_dim),
        "ip_adapter_img_norm_cond.weight": torch.ones(text_dim),
        "ip_adapter_img_norm_cond.bias": torch.zeros(text_dim),
    }
    for layer in range(len(transformer.blocks)):
        for name, shape in {
            "kv_proj_ip_adapter.weight": (2 * width, text_dim),
            "kv_proj_ip_adapter.bias": (2 * width,),
            "k_norm_ip_adapter.weight": (head_dim,),
            "k_norm_ip_adapter.bias": (head_dim,),
        }.items():
            tensors[f"blocks.{layer}.attn2.{name}"] = 3 * torch.randn(shape)
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "ipa.pt")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPVisionConfig(**sizes, image_size=8, patch_size=4, projection_dim=EMBED_DIM)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return folder


@pytest.fixture(scope="module")
def models(tiny_folder, tmp_path_factory):
    """A model whose pictures differ clearly, two ControlNets, and an IP-Adapter."""
    folder = tmp_path_factory.mktemp("conditions")
    pipe = TextToImagePipeline.from_pretrained(tiny_folder)
    for name, seed in (("canny", 0), ("tile", 1)):
        make_controlnet(folder / name, tiny_folder)
        net = HunyuanDiT2DControlNetModel.from_pretrained(folder / name)
        torch.manual_seed(seed)
        torch.nn.init.normal_(net.input_block.weight)
        for block in net.controlnet_blocks:
            torch.nn.init.normal_(block.weight)
        net.save_pretrained(folder / name)
    make_ip_adapter(folder / "ip-adapter", pipe.transformer)
    return folder


@pytest.fixture
def generate(call, tiny_folder, tmp_path, monkeypatch):
    """Generate an image by the command line: its pixels and settings."""
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (48, 48), "white")
    ImageDraw.Draw(image).rectangle((12, 12, 30, 36), fill="black")
    image.save("photo.png")
    detect_canny_edges(image).save("edges.png")
    image.transpose(Image.Transpose.ROTATE_90).save("other.png")

    def run(*arguments, command=("image", *GENERATE), out="a.png"):
        code, _, err = call(*command, "--model", str(tiny_folder), "--out", out, *arguments)
        assert code == 0, err
        with Image.open(out) as file:
            return file.tobytes(), read_image_metadata(out).settings

    return run


def test_a_control_image_and_its_preprocessor_agree(generate, models):
    net = ("--controlnet", str(models / "canny"))
    plain, _ = generate()
    by_map, settings = generate(*net, "--control", "canny=edges.png:0.7")
    by_photo, photo_settings = generate(*net, "--control-from", "canny=photo.png:0.7")
    assert by_map == by_photo != plain
    (control,) = settings["controls"]
    assert (control["name"], control["conditioning_scale"], control["preprocessor"]) == ("canny", 0.7, None)
    assert photo_settings["controls"][0]["preprocessor"] == "canny"
    assert str(models) not in json.dumps(settings)


def test_several_controls_have_strengths_starts_and_ends(generate, models):
    nets = ("--controlnet", str(models / "canny"), "--controlnet", f"tile={models / 'tile'}")
    both, settings = generate(
        *nets, "--control", "canny=edges.png:0.7:0-0.5", "--control-from", "tile=photo.png:1.5:0.5-1"
    )
    assert [each["name"] for each in settings["controls"]] == ["canny", "tile"]
    assert [(each["guidance_start"], each["guidance_end"]) for each in settings["controls"]] == [(0, 0.5), (0.5, 1)]
    always, _ = generate(*nets, "--control", "canny=edges.png:0.7", "--control-from", "tile=photo.png:1.5")
    assert both != always


def test_pictures_are_prompts(generate, models):
    adapter = ("--ip-adapter", str(models / "ip-adapter"))
    plain, _ = generate()
    one, settings = generate(*adapter, "--ip-adapter-image", "photo.png:0.6")
    assert one != plain
    assert [each["scale"] for each in settings["ip_adapter_images"]] == [0.6]
    off, _ = generate(*adapter, "--ip-adapter-image", "photo.png:0")
    assert off == plain
    two = ("--ip-adapter-image", "photo.png:0.6", "--ip-adapter-image", "other.png:0")
    assert generate(*adapter, *two)[0] == one
    file = ("--ip-adapter", str(models / "ip-adapter" / "ipa.pt"))
    named = ("--ip-adapter-encoder", str(models / "ip-adapter" / "image_encoder"))
    again, settings = generate(*file, *named, "--ip-adapter-image", "photo.png:0.6")
    assert again == one
    assert len(settings["ip_adapter"]["sha256"]) == 64


def test_an_edit_follows_controls_and_pictures(generate, models):
    edit = {"command": ("edit", "photo.png", *GENERATE)}
    net = ("--controlnet", str(models / "canny"), "--control-from", "canny=other.png:0.7")
    picture = ("--ip-adapter", str(models / "ip-adapter"), "--ip-adapter-image", "other.png:0.6")
    plain, _ = generate(**edit)
    controlled, settings = generate(*net, **edit)
    pictured, _ = generate(*picture, **edit)
    both, _ = generate(*net, *picture, **edit)
    assert len({plain, controlled, pictured, both}) == 4
    assert settings["controls"][0]["conditioning_scale"] == 0.7
    assert settings["strength"] == 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control", "edges.png"], "'edges.png' is no control; write NAME=FILE"),
        (["--control", "depth=edges.png"], "no ControlNet named 'depth'; those given are canny"),
        (["--control", "canny=missing.png"], "missing.png"),
        (["--control", "canny=edges.png:9"], "conditioning_scale is 9.0"),
        (["--control", "canny=edges.png:1:0.6-0.2"], "0.6 is not below control_guidance_end 0.2"),
        (["--control-from", "mine=edges.png"], "no preprocessor mine; there are canny, lineart"),
        (["--control-from", "my-depth=edges.png"], "the preprocessor depth needs a model"),
        (["--preprocessor", "canny=models/x"], "the preprocessor canny takes no model"),
        (["--preprocessor", "depth"], "write NAME=FOLDER"),
        ([], "no control image for the ControlNets canny"),
        (["--control", "canny=edges.png", "--controlnet", "nowhere/to/be"], "there is no ControlNet nowhere/to/be"),
        (["--control", "canny=edges.png", "--controlnet", "."], "holds no ControlNet"),
        (["--control", "canny=edges.png", "--controlnet", "wide"], "its attention_head_dim is 16, the model's is 8"),
        (["--control", "canny=edges.png", "--ip-adapter", "x.pt"], "belong together"),
        (["--control", "canny=edges.png", "--ip-adapter-image", "edges.png"], "belong together"),
        (
            ["--control", "canny=edges.png", "--ip-adapter", "x.pt", "--ip-adapter-image", "edges.png"],
            "there is no IP-Adapter x.pt",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_wrong_conditions_are_refused_before_torch_is_needed(
    generate, call, models, tiny_folder, monkeypatch, arguments, message
):
    monkeypatch.setattr("dianjing.cli.image_conditions.load_pipeline", None)
    net = HunyuanDiT2DControlNetModel.load_config(models / "canny")
    HunyuanDiT2DControlNetModel.from_config({**net, "attention_head_dim": 16, "hidden_size": 32}).save_pretrained(
        "wide"
    )
    extra = ["--controlnet", f"mine={models / 'canny'}"] if "mine" in str(arguments) else []
    extra += ["--controlnet", f"my-depth={models / 'canny'}"] if "my-depth" in str(arguments) else []
    extra += ["--control", "wide=edges.png"] if "wide" in arguments else []
    options = ["--controlnet", f"canny={models / 'canny'}", *extra, *arguments]
    code, _, err = call("image", *GENERATE, "--model", str(tiny_folder), *options)
    assert code == 2
    assert message in " ".join(err.split())


def test_published_controlnets_are_known_by_name():
    published = get_controlnet_repository("hunyuan-dit-v1.2", "canny")
    assert published == "Tencent-Hunyuan/HunyuanDiT-v1.2-ControlNet-Diffusers-Canny"
    assert get_controlnet_repository("hunyuan-dit-v1.2", "edges") is None
    assert get_controlnet_repository("sticker", "canny") is None
