"""Our pipeline with a ControlNet generates what diffusers' HunyuanDiTControlNetPipeline generates."""

import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiTControlNetPipeline
from PIL import Image

from dianjing import TextToImagePipeline
from tests.parity.test_text_to_image import CALL, error, generate

SCALE = {"controlnet_conditioning_scale": 0.8}


def make_controlnet(transformer, *, width=16, seed=1):
    config = transformer.config
    names = (
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "patch_size",
        "sample_size",
        "mlp_ratio",
        "cross_attention_dim",
        "cross_attention_dim_t5",
        "pooled_projection_dim",
        "text_len",
        "text_len_t5",
        "use_style_cond_and_image_meta_size",
    )
    torch.manual_seed(seed)
    net = HunyuanDiT2DControlNetModel(
        **{name: config[name] for name in names}, hidden_size=width, transformer_num_layers=config.num_layers
    )
    for layer in (net.input_block, *net.controlnet_blocks):  # else it does nothing
        torch.nn.init.normal_(layer.weight, std=0.5)
    return net.eval()


def make_pair(plain, folder):
    """Their pipeline with a ControlNet, and ours loaded from the folder that theirs saved."""
    plain.save_pretrained(folder)
    controlnet = make_controlnet(plain.transformer)
    parts = {
        name: part for name, part in plain.components.items() if name not in ("safety_checker", "feature_extractor")
    }
    theirs = HunyuanDiTControlNetPipeline(
        **parts, controlnet=controlnet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    ours = TextToImagePipeline.from_pretrained(folder, controlnet=controlnet)
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    return theirs, ours


@pytest.fixture(scope="module", params=[True, False], ids=["with size and style", "without"])
def pair(request, make_hunyuan, tmp_path_factory):
    return make_pair(make_hunyuan(with_size=request.param), tmp_path_factory.mktemp("hunyuan"))


@pytest.mark.usefixtures("vae_mode")
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
def test_a_control_image_gives_the_same_image(pair, line_art, guidance_scale):
    settings = {"control_image": line_art, "guidance_scale": guidance_scale, "output_type": "latent", **SCALE}
    theirs, ours = (generate(pipe, **settings) for pipe in pair)
    assert error(ours, theirs) <= 1e-4
    plain = generate(pair[1], guidance_scale=guidance_scale, output_type="latent")
    assert error(plain, theirs) > 1e-2


def test_several_control_images_each_control_one_image(pair, line_art):
    rotated = line_art.transpose(Image.Transpose.ROTATE_90)
    settings = {**CALL, **SCALE, "output_type": "latent"}

    def seeds():
        return [torch.Generator().manual_seed(0) for _ in range(2)]

    both = pair[1](**settings, control_image=[line_art, rotated], generator=seeds()).images
    one = pair[1](**settings, control_image=line_art, generator=seeds()).images
    torch.testing.assert_close(both[0], one[0], atol=1e-4, rtol=1e-4)
    assert error(both[1], one[1]) > 1e-3


def test_a_control_image_without_a_controlnet_is_refused(pair, line_art, monkeypatch):
    monkeypatch.setattr(pair[1], "controlnet", None)
    with pytest.raises(ValueError, match="controlnet="):
        generate(pair[1], control_image=line_art)


def test_a_controlnet_of_another_model_is_refused(pair, line_art, monkeypatch):
    monkeypatch.setattr(pair[1], "controlnet", make_controlnet(pair[1].transformer, width=16))
    pair[1].controlnet.controlnet_blocks.append(torch.nn.Linear(16, 16))
    with pytest.raises(ValueError, match="takes 1 of width 16"):
        generate(pair[1], control_image=line_art)


def test_three_control_images_for_two_images_are_refused(pair, line_art):
    with pytest.raises(ValueError, match="3 control images for 2 images"):
        generate(pair[1], control_image=[line_art] * 3)
