"""IP-Adapters and pictures that do not fit are refused, before anything is computed or changed."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dianjing import DianjingError, TextToImagePipeline
from tests.parity.tencent_ip_adapter import TEXT_DIM, make_picture, make_tensors, rand_embeds, with_negative
from tests.parity.test_text_to_image import generate


@pytest.fixture(scope="module")
def pipe(make_hunyuan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hunyuan")
    make_hunyuan(with_size=False).save_pretrained(folder)
    return TextToImagePipeline.from_pretrained(folder)


@pytest.fixture
def ours(pipe):
    yield pipe
    pipe.unload_ip_adapter()


FOREIGN = {
    "Stable Diffusion 1.5": {"image_proj": {"proj.weight": (8, 8)}, "ip_adapter": {"1.to_k_ip.weight": (320, 768)}},
    "SDXL": {"image_proj": {"proj.weight": (8, 8)}, "ip_adapter": {"1.to_k_ip.weight": (640, 2048)}},
    "Flux": {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (8, 8)},
    "LoRA": {"transformer.blocks.0.attn1.to_q.lora_A.weight": (4, 8)},
    "without an IP-Adapter": {"blocks.0.attn2.kv_proj.weight": (8, 8)},
}


@pytest.mark.parametrize("model", FOREIGN)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_an_ip_adapter_of_another_model_is_named(ours, tmp_path, model, suffix):
    def make(value):
        return torch.zeros(value) if isinstance(value, tuple) else {name: make(each) for name, each in value.items()}

    path = tmp_path / f"adapter{suffix}"
    content = make(FOREIGN[model])
    if suffix == ".safetensors":
        flat = {}
        for name, value in content.items():
            flat |= (
                {f"{name}.{rest}": each for rest, each in value.items()} if isinstance(value, dict) else {name: value}
            )
        save_file(flat, path)
    else:
        torch.save(content, path)
    with pytest.raises(DianjingError, match=f"of another model .*{model}"):
        ours.load_ip_adapter(path)
    assert not ours._ip_adapters


def drop(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


BIAS = "ip_adapter_img_norm_cond.bias"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (make_tensors(layers=3), "3 blocks of width 16, but this one has 4"),
        (make_tensors(width=32), "4 blocks of width 32, but"),
        (drop(make_tensors(), BIAS), f"lacks {BIAS}"),
        ({**make_tensors(), BIAS: torch.zeros(7)}, r"has the shape \(7,\) instead of \(32,\)"),
        ({**make_tensors(), BIAS: torch.full((TEXT_DIM,), torch.nan)}, f"{BIAS} in .* holds NaN"),
        ({"fc.weight": torch.zeros(2)}, "its tensors are fc.weight"),
    ],
    ids=["layers", "width", "missing", "shape", "NaN", "unknown"],
)
def test_an_ip_adapter_that_does_not_fit_is_refused(ours, tensors, message):
    with pytest.raises(DianjingError, match=message):
        ours.load_ip_adapter(tensors)
    assert not ours._ip_adapters


def test_wrong_arguments_for_pictures_are_refused_before_the_run(ours, monkeypatch, tmp_path):
    monkeypatch.setattr(ours, "encode_prompt", None)  # nothing is computed
    picture = make_picture()
    with pytest.raises(DianjingError, match="no IP-Adapter"):
        generate(ours, ip_adapter_image=picture)
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(DianjingError, match=r"no IP-Adapter|has none of ipa\.safetensors"):
            ours.load_ip_adapter(path)
    with pytest.raises(DianjingError, match="no image tower"):
        ours.load_ip_adapter(make_tensors(), image_encoder_folder=tmp_path / "tower")
    ours.load_ip_adapter([make_tensors()] * 2)
    with pytest.raises(DianjingError, match="3 scales for 2"):
        ours.set_ip_adapter_scale([1.0, 2.0, 3.0])
    with pytest.raises(DianjingError, match="none was found"):
        generate(ours, ip_adapter_image=[picture] * 2)
    with pytest.raises(DianjingError, match="pictures for 1 IP-Adapters, but 2 are"):
        generate(ours, ip_adapter_image=picture)
    embeds = with_negative(rand_embeds())
    with pytest.raises(DianjingError, match="leave one out"):
        generate(ours, ip_adapter_image=picture, ip_adapter_image_embeds=[embeds])
    for wrong in (embeds[:, 0], embeds[..., :5], embeds[:1], embeds[:, :0]):
        with pytest.raises(DianjingError, match="ip_adapter_image_embeds has the shape"):
            generate(ours, ip_adapter_image_embeds=[embeds, wrong])
    with pytest.raises(DianjingError, match="holds NaN"):
        generate(ours, ip_adapter_image_embeds=[embeds, embeds * torch.nan])
    with pytest.raises(DianjingError, match="is a str"):
        generate(ours, ip_adapter_image_embeds=[embeds, "picture.png"])


def test_an_image_tower_of_another_width_is_refused(ours, tmp_path):
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
        projection_dim=10,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    with pytest.raises(DianjingError, match="embeddings of width 10, but the IP-Adapter takes 24"):
        ours.load_ip_adapter(make_tensors(), image_encoder_folder=tmp_path)
    assert ours.image_encoder is None
    assert not ours._ip_adapters
