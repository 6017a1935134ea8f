"""Edits with adapters, control images and pictures: as their pipelines make them, and without a trace afterwards."""

import numpy as np
import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image

from dianjing import DianjingError, ImageToImagePipeline, InpaintPipeline
from dianjing.demo.edit_request import EditRequest
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.editing.extension import Extension
from dianjing.pipelines.image_conditions import ControlInput, PictureInput
from tests.demo.conftest import make_engine
from tests.demo.test_extensions import SQUARE, generate
from tests.dianjing.cli.test_image_conditions import make_ip_adapter

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
MASK = np.zeros((32, 32), bool)
MASK[8:24, 4:20] = True
FAST = {"prompt": "cat", "seed": 3, "num_inference_steps": 2}
PARTS = {"InpaintPipeline": {"mask": MASK}, "ImageToImagePipeline": {"strength": 0.7}}


@pytest.fixture(scope="module")
def engine(tiny_video_folder, controlnet, tmp_path_factory):
    transformer = make_engine(tiny_video_folder).text_to_image.transformer
    weights = make_ip_adapter(tmp_path_factory.mktemp("weights") / "ip-adapter", transformer)
    return make_engine(tiny_video_folder, controlnets={"edges": str(controlnet)}, ip_adapter=str(weights))


def make_request(name, **conditions):
    return EditRequest(edit=ImageEdit(image=PICTURE, **PARTS[name]), **FAST, **conditions)


@pytest.mark.parametrize("pipeline_class", [InpaintPipeline, ImageToImagePipeline])
def test_an_edit_follows_control_images_and_pictures_and_leaves_no_trace(
    make_queue, engine, controlnet, tiny_video_folder, pipeline_class
):
    name = pipeline_class.__name__
    controls, pictures = [ControlInput(image=SQUARE, conditioning_scale=0.5)], [PictureInput(image=SQUARE, scale=0.6)]
    choices = ({}, {"controls": controls, "pictures": pictures}, {"controls": controls}, {"pictures": pictures}, {})
    before, both, control, picture, after = generate(
        make_queue, engine, [make_request(name, **conditions) for conditions in choices]
    )
    np.testing.assert_array_equal(before, after)
    assert len({each.tobytes() for each in (before, both, control, picture)}) == 4
    net = HunyuanDiT2DControlNetModel.from_pretrained(controlnet)
    pipe = pipeline_class.from_pipe(make_engine(tiny_video_folder).text_to_image, controlnet=net)
    mask = {} if pipeline_class is ImageToImagePipeline else {"mask_image": MASK}
    expected = pipe(
        ["cat"],
        image=[PICTURE],
        **mask,
        strength=0.7 if pipeline_class is ImageToImagePipeline else 1.0,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(3)],
        control_image=SQUARE,
        controlnet_conditioning_scale=0.5,
    ).images[0]
    np.testing.assert_array_equal(control[0], np.asarray(expected))


def test_a_control_image_is_cropped_with_the_part_that_is_worked_on(make_queue, engine):
    mask = np.zeros((32, 32), bool)
    mask[4:10, 4:10] = True
    edit = ImageEdit(image=PICTURE, mask=mask, padding_mask_crop=2)
    maps = [SQUARE.resize((64, 64)) for _ in range(3)]
    maps[1].paste((0, 0, 0), (40, 40, 60, 60))  # outside the part
    maps[2].paste((0, 0, 0), (10, 10, 20, 20))  # inside
    requests = [EditRequest(edit=edit, controls=[ControlInput(image=each)], **FAST) for each in maps]
    plain, outside, inside = generate(make_queue, engine, requests)
    np.testing.assert_array_equal(plain, outside)
    assert not np.array_equal(plain, inside)


def test_the_metadata_of_an_edit_name_its_conditions(make_queue, engine):
    request = make_request(
        "InpaintPipeline", controls=[ControlInput(image=SQUARE)], pictures=[PictureInput(image=SQUARE)]
    )
    settings = make_queue(engine).submit(request, "ann").wait(60).result.metadata[0].settings
    assert [each["name"] for each in settings["controls"]] == ["edges"]
    assert [each["scale"] for each in settings["ip_adapter_images"]] == [1.0]
    assert settings["mask"]["width"] == 32


def test_an_edit_by_an_adapter_differs_and_leaves_no_trace(make_queue, extended_engine):
    scales = ({}, {"robot": 1.5}, {"ink-v2": 1.0}, {})
    results = generate(make_queue, extended_engine, [make_request("InpaintPipeline", adapters=each) for each in scales])
    np.testing.assert_array_equal(results[0], results[3])
    assert len({each.tobytes() for each in results}) == 3


def test_what_a_server_does_not_have_is_refused_for_edits_too(make_queue, extended_engine, image_engine):
    control = ControlInput(image=SQUARE, controlnet="depth")
    with pytest.raises(DianjingError, match="this server has edges"):
        make_queue(extended_engine).submit(make_request("InpaintPipeline", controls=[control]), "ann")
    with pytest.raises(DianjingError, match="start the server with --ip-adapter"):
        make_queue(image_engine).submit(
            make_request("ImageToImagePipeline", pictures=[PictureInput(image=SQUARE)]), "ann"
        )
    extension = ImageEdit(image=PICTURE, extension=Extension(left=8))
    with pytest.raises(DianjingError, match="extension"):
        EditRequest(edit=extension, controls=[ControlInput(image=SQUARE)], **FAST)
