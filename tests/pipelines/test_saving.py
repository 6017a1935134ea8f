"""Saving and opening across pipelines, ours and diffusers'."""

import json
import logging

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, HunyuanDiTPipeline

from dianjing import DiT, ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
from dianjing.pipelines.segmentation.unet import UNetSegmenter

SETTINGS = {
    "default_num_inference_steps": 30,
    "default_guidance_scale": 2.0,
    "default_num_frames": 9,
    "default_fps": 8.0,
    "default_continuation_steps": 10,
    "default_continuation_guidance_scale": 1.0,
}


def assert_complete(pipe):
    """Check that a video pipeline has everything of the bundle."""
    assert {name: pipe.config[name] for name in SETTINGS} == SETTINGS
    assert len(pipe.motion_vocabulary.motions) == 13
    assert isinstance(pipe.unet_segmenter, UNetSegmenter)
    assert pipe.vocabulary is not None
    assert pipe.concept_vocabulary is not None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    TextToImagePipeline.from_pretrained("sticker").save_pretrained(folder / "image")
    TextToVideoPipeline.from_pretrained(folder / "image").save_pretrained(folder / "video")
    ImageToVideoPipeline.from_pretrained(folder / "video").save_pretrained(folder / "animation")
    return folder


@pytest.mark.parametrize("name", ["image", "video", "animation"])
@pytest.mark.parametrize("pipeline", [TextToVideoPipeline, ImageToVideoPipeline])
def test_every_pipeline_saves_all_of_the_bundle(saved, name, pipeline):
    assert_complete(pipeline.from_pretrained(saved / name))


def test_a_saved_image_pipeline_generates_the_same_images(saved):
    pipelines = [TextToImagePipeline.from_pretrained(source) for source in (saved / "animation", "sticker")]
    for name, module in pipelines[1].components.items():
        if isinstance(module, torch.nn.Module):
            weights = pipelines[0].components[name].state_dict()
            assert all(torch.equal(weights[key], weight) for key, weight in module.state_dict().items()), name
    images = []
    for pipe in pipelines:
        pipe.set_progress_bar_config(disable=True)
        images.append(pipe("a cat", generator=torch.Generator().manual_seed(0), output_type="pt").images)
    # The order of sums of float32 on a CPU may depend on where the weights lie in memory.
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)


def test_from_pipe_keeps_the_bundle_in_both_directions_and_prints_nothing(caplog, capfd):
    image = TextToImagePipeline.from_pretrained("sticker")
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        video = TextToVideoPipeline.from_pipe(image)
        again = TextToImagePipeline.from_pipe(ImageToVideoPipeline.from_pipe(video))
        assert_complete(TextToVideoPipeline.from_pipe(again))
    assert not caplog.records
    assert "float32" not in capfd.readouterr().err


@pytest.mark.parametrize("opener", [DiffusionPipeline, AutoPipelineForText2Image, HunyuanDiTPipeline])
def test_diffusers_opens_what_our_pipeline_saves_and_generates_the_same(
    hunyuan_folder, loaded, generate_latents, tmp_path, opener, caplog
):
    loaded.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        pipe = opener.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if "not expected" in record.getMessage()]
    assert type(pipe) is HunyuanDiTPipeline
    assert type(pipe.transformer).__name__ == "HunyuanDiT2DModel"
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 5.0}
    settings |= {"height": 64, "width": 64, "use_resolution_binning": False}
    latents = pipe("a cat", generator=torch.Generator().manual_seed(0), **settings).images
    expected = loaded("a cat", generator=torch.Generator().manual_seed(0), **settings).images
    torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("opener", [DiffusionPipeline, AutoPipelineForText2Image])
def test_diffusers_opens_the_bundle_with_all_its_weights(saved, opener):
    pipe = opener.from_pretrained(saved / "image")
    assert isinstance(pipe.transformer, DiT)
    assert pipe.transformer.motion_blocks is not None
    assert_complete(TextToVideoPipeline.from_pretrained(saved / "image"))
    image = TextToImagePipeline.from_pipe(pipe)
    assert image("a cat", num_inference_steps=1, output_type="pt").images.isfinite().all()


def test_a_pipeline_of_diffusers_over_our_transformer_saves_and_opens(loaded, tmp_path):
    parts = {name: part for name, part in loaded.components.items() if name != "controlnet"}
    pipe = HunyuanDiTPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["dianjing.dit", "DiT"]
    for opener in (DiffusionPipeline, TextToImagePipeline):
        again = opener.from_pretrained(tmp_path)
        assert isinstance(again.transformer, DiT)
        for name, tensor in loaded.transformer.state_dict().items():
            assert torch.equal(again.transformer.state_dict()[name], tensor)


def test_settings_of_a_folder_of_an_earlier_release_are_read(saved, tmp_path):
    TextToImagePipeline.from_pretrained("sticker").save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = {
        name.removeprefix("_") if "default" in name else name: v for name, v in json.loads(path.read_text()).items()
    }
    path.write_text(json.dumps({**index, "_class_name": "TextToImagePipeline"}))
    assert_complete(TextToVideoPipeline.from_pretrained(tmp_path))
