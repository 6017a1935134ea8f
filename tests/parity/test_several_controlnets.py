"""Several ControlNets, their scales, starts and ends act as in diffusers; wrong arguments for them are refused."""

import pytest
import torch
from diffusers import HunyuanDiT2DMultiControlNetModel
from PIL import Image

from dianjing import DianjingError, TextToImagePipeline
from tests.parity.test_controlnet import SCALE, make_controlnet, make_pair
from tests.parity.test_text_to_image import CALL, error, generate

pytestmark = pytest.mark.usefixtures("vae_mode")


@pytest.fixture(scope="module")
def pair(make_hunyuan, tmp_path_factory):
    return make_pair(make_hunyuan(with_size=False), tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture
def two(pair, monkeypatch):
    """Both pipelines with two ControlNets."""
    theirs, ours = pair
    nets = [make_controlnet(ours.transformer, seed=seed) for seed in (1, 2)]
    for pipe in pair:
        monkeypatch.setattr(pipe, "controlnet", HunyuanDiT2DMultiControlNetModel(nets))
    return theirs, ours


@pytest.fixture
def two_images(line_art):
    return [line_art, line_art.transpose(Image.Transpose.ROTATE_90)]


def keep_between(net, start, end, *, num_steps=CALL["num_inference_steps"]):
    """Make a ControlNet of theirs act in a part of the steps, as diffusers' pipelines with `controlnet_keep` do."""
    forward, calls = net.forward, []

    def forward_at_step(*args, conditioning_scale, **kwargs):
        index = len(calls)
        calls.append(index)
        keep = 1.0 - float(index / num_steps < start or (index + 1) / num_steps > end)
        return forward(*args, conditioning_scale=conditioning_scale * keep, **kwargs)

    net.forward = forward_at_step


@pytest.mark.parametrize("scales", [[0.8, 0.8], [0.3, 1.2]], ids=str)
def test_two_controlnets_give_the_same_image(two, two_images, scales):
    settings = {"control_image": two_images, "controlnet_conditioning_scale": scales, "output_type": "latent"}
    theirs, ours = (generate(pipe, **settings) for pipe in two)
    assert error(ours, theirs) <= 1e-4
    swapped = generate(two[1], **{**settings, "control_image": two_images[::-1]})
    assert error(swapped, theirs) > 1e-2


def test_one_scale_is_that_of_every_controlnet(two, two_images):
    settings = {"control_image": two_images, "output_type": "latent"}
    one, both = (generate(two[1], controlnet_conditioning_scale=scale, **settings) for scale in (0.8, [0.8, 0.8]))
    assert torch.equal(one, both)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.1, 1.0)])
def test_a_controlnet_acts_between_start_and_end(pair, line_art, monkeypatch, start, end):
    net = make_controlnet(pair[1].transformer)
    monkeypatch.setattr(pair[1], "controlnet", net)
    part = {"control_guidance_start": start, "control_guidance_end": end}
    settings = {"control_image": line_art, "output_type": "latent", **SCALE}
    ours, always = generate(pair[1], **settings, **part), generate(pair[1], **settings)
    keep_between(net, start, end)
    monkeypatch.setattr(pair[0], "controlnet", net)
    assert error(ours, generate(pair[0], **settings)) <= 1e-4
    assert error(ours, always) > 1e-3


def test_each_of_two_controlnets_has_its_own_start_and_end(two, two_images):
    parts = {"control_guidance_start": [0.0, 0.5], "control_guidance_end": [0.5, 1.0]}
    settings = {"control_image": two_images, "controlnet_conditioning_scale": [0.7, 1.1], "output_type": "latent"}
    ours = generate(two[1], **settings, **parts)
    for net, start, end in zip(two[0].controlnet.nets, *parts.values(), strict=True):
        keep_between(net, start, end)
    assert error(ours, generate(two[0], **settings)) <= 1e-4


def test_a_tensor_is_used_as_it_is(pair):
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    settings = {"control_image": pixels, "output_type": "latent", **SCALE}
    theirs, ours = (generate(pipe, **settings) for pipe in pair)
    assert error(ours, theirs) <= 1e-4


def test_a_map_of_another_size_is_resized_as_theirs(pair, line_art):
    settings = {"control_image": line_art.resize((100, 40)), "output_type": "latent", **SCALE}
    theirs, ours = (generate(pipe, **settings) for pipe in pair)
    assert error(ours, theirs) <= 1e-4


def test_a_list_of_paths_loads_several_controlnets(pair, two_images, tmp_path):
    folder = tmp_path / "model"
    pair[0].save_pretrained(folder)
    paths = [tmp_path / name for name in ("canny", "depth")]
    for path, seed in zip(paths, (1, 2), strict=True):
        make_controlnet(pair[1].transformer, seed=seed).save_pretrained(path)
    pipe = TextToImagePipeline.from_pretrained(folder, controlnet=paths)
    pipe.set_progress_bar_config(disable=True)
    settings = {"control_image": two_images, "controlnet_conditioning_scale": [0.3, 1.2], "output_type": "latent"}
    other = TextToImagePipeline.from_pipe(
        pair[1], controlnet=[make_controlnet(pair[1].transformer, seed=seed) for seed in (1, 2)]
    )
    other.set_progress_bar_config(disable=True)
    assert error(generate(pipe, **settings), generate(other, **settings)) <= 1e-5
    with pytest.raises(DianjingError, match="each by its own save_pretrained"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"controlnet_conditioning_scale": [1.0]}, "has 1 numbers for 2 ControlNets"),
        ({"controlnet_conditioning_scale": [1.0, "2"]}, "controlnet_conditioning_scale is"),
        ({"controlnet_conditioning_scale": float("nan")}, "controlnet_conditioning_scale is"),
        ({"control_guidance_start": [0.0, 0.1, 0.2]}, "control_guidance_start has 3 numbers"),
        ({"control_guidance_end": 1.5}, "control_guidance_end is"),
        ({"control_guidance_start": 0.5, "control_guidance_end": [0.8, 0.5]}, "0.5 is not below"),
    ],
    ids=str,
)
def test_wrong_numbers_for_controlnets_are_refused_before_the_run(two, two_images, settings, message, monkeypatch):
    monkeypatch.setattr(two[1], "encode_prompt", None)  # nothing is computed
    with pytest.raises(DianjingError, match=message):
        generate(two[1], control_image=two_images, **settings)


def test_wrong_images_for_controlnets_are_refused_before_the_run(two, line_art, monkeypatch):
    monkeypatch.setattr(two[1], "encode_prompt", None)
    for images, count in ((line_art, 1), ([line_art], 1), ([line_art] * 3, 3)):
        with pytest.raises(DianjingError, match=f"{count} entries of control_image for 2 ControlNets"):
            generate(two[1], control_image=images)
    with pytest.raises(DianjingError, match="3 control images for 2 images"):
        generate(two[1], control_image=[line_art, [line_art] * 3])
    with pytest.raises(DianjingError, match=r"\(B, 3, 64, 64\)"):
        generate(two[1], control_image=[line_art, torch.zeros(1, 3, 32, 32)])
