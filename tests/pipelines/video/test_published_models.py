"""The table of published video models, and the sizes, lengths and tasks that each takes."""

import inspect

import diffusers
import pytest

from dianjing import DianjingError
from dianjing.pipelines.video.published import PublishedVideoPipeline
from dianjing.pipelines.video.published_models import PUBLISHED_PIPELINES, PublishedModel, find_pipeline_class


@pytest.mark.parametrize("class_name", PUBLISHED_PIPELINES)
def test_the_table_has_the_defaults_of_diffusers(class_name):
    row = PUBLISHED_PIPELINES[class_name]
    parameters = inspect.signature(getattr(diffusers, class_name).__call__).parameters
    assert row.default_num_frames == parameters["num_frames"].default
    assert row.default_num_inference_steps == parameters["num_inference_steps"].default
    if row.default_size is not None:
        assert row.default_size == (parameters["width"].default, parameters["height"].default)
    assert ("guidance_scale" in parameters) == (row.guidance == "argument")
    if row.guidance == "argument":
        assert row.default_guidance_scale == parameters["guidance_scale"].default
    assert ("sigmas" in parameters) == row.has_linspace_sigmas
    assert ("image" in parameters) == (row.task == "image-to-video")


@pytest.fixture
def model(published_folder):
    def read(name, task="image-to-video"):
        return PublishedModel.from_folder(name, published_folder(name), task)

    return read


def test_frames_that_a_model_cannot_generate_are_refused_with_the_nearest(model):
    wan = model("wan-2.2-i2v")
    assert wan.resolve_num_frames(81, None, None) == 81
    assert wan.resolve_num_frames(None, 2.0, 16) == 33  # 32 is none of its lengths
    with pytest.raises(DianjingError, match="nearest numbers of frames: 21, 25"):
        wan.resolve_num_frames(24, None, None)
    with pytest.raises(DianjingError, match="nearest numbers of frames: 125"):  # 32 latents of positions
        wan.resolve_num_frames(201, None, None)


def test_sizes_that_a_model_cannot_generate_are_refused_with_the_nearest(model):
    with pytest.raises(DianjingError, match="nearest size is 96x64"):
        model("wan-2.2-ti2v").resolve_size(100, 64, (64, 64))
    with pytest.raises(DianjingError, match="nearest size is 32x32"):
        model("hunyuan-1.5-i2v").resolve_size(33, 33, (64, 64))
    assert model("hunyuan-1.5-i2v").resolve_size(None, None, (640, 640)) == (32, 32)
    for size in model("hunyuan-1.5-i2v").fixed_sizes:
        assert model("hunyuan-1.5-i2v").resolve_size(*size, (640, 640)) == size


def test_a_model_of_another_task_or_kind_is_refused(published_folder):
    with pytest.raises(DianjingError, match="from an image"):
        PublishedVideoPipeline.from_pretrained(published_folder("wan-2.1-i2v"), task="text-to-video")
    with pytest.raises(DianjingError, match="from a text alone"):
        PublishedVideoPipeline.from_pretrained(published_folder("hunyuan-t2v"), task="image-to-video")
    with pytest.raises(DianjingError, match="no video pipeline of diffusers"):
        PublishedVideoPipeline.from_pretrained("sticker", task="text-to-video")
    assert find_pipeline_class("wan-2.2-i2v-a14b") == "WanImageToVideoPipeline"
    assert find_pipeline_class("sticker") is None
    assert find_pipeline_class("owner/name") is None
