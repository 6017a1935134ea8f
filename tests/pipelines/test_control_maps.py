"""Preprocessors of ControlNets: what they keep of a picture, and models of transformers behind depth and pose."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

from dianjing import DianjingError
from dianjing.pipelines.control_maps import (
    detect_canny_edges,
    detect_line_art,
    infer_preprocessor,
    load_preprocessor,
    make_tile_map,
)
from dianjing.pipelines.control_models import draw_openpose
from dianjing.pipelines.controlnet import crop_control_images


@pytest.fixture
def line_image():
    """Dark lines on light paper, 96 x 64."""
    image = Image.new("RGB", (96, 64), (250, 245, 240))
    ImageDraw.Draw(image).line((10, 10, 80, 50), fill=(20, 20, 30), width=2)
    return image


def test_edges_and_lines_are_white_on_black_where_the_lines_are(line_image):
    ink = np.asarray(line_image.convert("L")) < 100
    for detect in (detect_canny_edges, detect_line_art):
        found = detect(line_image)
        assert found.size == line_image.size
        assert found.mode == "RGB"
        levels = np.asarray(found.convert("L"))
        assert np.median(levels[ink]) > 100 or levels[ink].max() == 255
        assert np.median(levels) == 0
    assert np.asarray(detect_line_art(line_image).convert("L"))[ink].mean() > 100
    assert not np.asarray(detect_line_art(Image.new("RGB", (9, 7), "white"))).any()


def test_a_tile_map_keeps_what_is_coarse(line_image):
    tile = make_tile_map(line_image)
    assert tile.size == line_image.size
    coarse = [np.asarray(image.resize((12, 8), Image.Resampling.BOX), np.float32) for image in (line_image, tile)]
    np.testing.assert_allclose(coarse[1], coarse[0], atol=25)
    assert np.abs(np.diff(np.asarray(tile, np.float32), axis=1)).max() < 60  # the line is gone
    assert make_tile_map(Image.new("RGB", (3, 2), "red")).getpixel((0, 0)) == (255, 0, 0)


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """A depth model and a pose model of random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )
    depth = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=8,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[4, 4],
        fusion_hidden_size=4,
        head_hidden_size=4,
    )
    model = DepthAnythingForDepthEstimation(depth)
    with torch.no_grad():
        for parameter in model.head.parameters():  # behind a ReLU, which random weights may close
            parameter.copy_(parameter.abs() + 0.1)
    model.save_pretrained(folder / "depth")
    DPTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder / "depth")
    backbone = VitPoseBackboneConfig(
        image_size=(32, 24), patch_size=(8, 8), hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    pose = VitPoseConfig(backbone_config=backbone, num_labels=17, scale_factor=4)
    VitPoseForPoseEstimation(pose).save_pretrained(folder / "pose")
    VitPoseImageProcessorPil(size={"height": 32, "width": 24}).save_pretrained(folder / "pose")
    return folder


@pytest.mark.parametrize("name", ["depth", "pose"])
def test_models_of_transformers_make_maps_of_the_pictures_size(model_folders, line_image, name):
    result = load_preprocessor(name, folder=str(model_folders / name))(line_image)
    assert result.size == line_image.size
    assert result.mode == "RGB"
    if name == "depth":
        levels = np.asarray(result)
        assert (levels.min(), levels.max()) == (0, 255)


def test_a_skeleton_joins_the_known_key_points():
    keypoints = np.full((17, 2), np.nan, np.float32)
    assert not np.asarray(draw_openpose(keypoints, size=(64, 64))).any()
    keypoints[[5, 6]] = [[40, 20], [20, 20]]  # both shoulders, so that there is a neck
    keypoints[8] = [20, 44]  # the right elbow
    is_line = np.asarray(draw_openpose(keypoints, size=(64, 64))).any(axis=-1)
    assert is_line[20, 20:41].all()
    assert is_line[20:45, 20].all()
    assert not is_line[50:].any()


def test_a_name_determines_the_preprocessor():
    assert infer_preprocessor("HunyuanDiT-v1.2-ControlNet-Diffusers-Canny") == "canny"
    assert infer_preprocessor("my-line-art") == "lineart"
    assert infer_preprocessor("edges") is None


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("normal", None, "no preprocessor normal; there are canny"),
        ("depth", None, "depth needs a model"),
        ("canny", "models/x", "canny takes no model"),
        ("pose", "nowhere/to/be", "there is no model nowhere/to/be"),
        ("depth", ".", "holds no model for the preprocessor depth"),
    ],
)
def test_wrong_preprocessors_are_refused(name, folder, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DianjingError, match=message):
        load_preprocessor(name, folder=folder)


def test_control_images_of_every_kind_are_cropped_alike(line_image):
    image = line_image
    expected = np.asarray(image.crop((image.width // 4, 0, image.width // 2, image.height)))
    size = (image.width * 2, image.height * 2)
    box = (size[0] // 4, 0, size[0] // 2, size[1])
    pixels = np.asarray(image)
    for each in (image, pixels, [image], pixels[None]):
        cropped = crop_control_images(each, box, size=size)
        np.testing.assert_array_equal(np.asarray(cropped).reshape(expected.shape), expected)
    tensor = torch.zeros(1, 3, 8, 8)
    assert crop_control_images(tensor, box, size=size) is tensor
    assert crop_control_images(image, (0, 0, *size), size=size) is image
