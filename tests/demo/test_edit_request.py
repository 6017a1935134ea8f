"""Requests for edits: the size that follows the image, the work of a strength, and warnings."""

from dataclasses import replace

import pytest
from PIL import Image

from dianjing import DianjingError
from dianjing.demo.edit_request import EditRequest
from dianjing.demo.limits import ModelCapabilities
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.editing.extension import Extension

CAPABILITIES = ModelCapabilities(
    model="m", default_size_px=64, size_multiple_px=16, num_inference_steps=20, guidance_scale=4.0
)


def make(size=(64, 64), prompt="a cat", **edit):
    return EditRequest(prompt=prompt, edit=ImageEdit(image=Image.new("RGB", size), **edit))


@pytest.mark.parametrize(("size", "expected"), [((64, 64), (64, 64)), ((100, 70), (96, 64)), ((2000, 1000), (96, 48))])
def test_the_size_follows_the_image_without_a_warning(size, expected):
    request = make(size).with_defaults(CAPABILITIES)
    assert (request.width, request.height) == expected
    assert request.list_warnings(CAPABILITIES) == []
    assert replace(request, width=128).list_warnings(CAPABILITIES)


def test_the_work_is_that_of_the_steps_that_a_strength_leaves():
    [run] = make(strength=0.5).with_defaults(CAPABILITIES).list_work(CAPABILITIES)
    assert run.num_steps == 10
    runs = make(words="a cat").with_defaults(CAPABILITIES).list_work(CAPABILITIES)
    assert [run.num_steps for run in runs] == [20]
    runs = make(extension=Extension(left=64)).with_defaults(CAPABILITIES).list_work(CAPABILITIES)
    assert [run.num_steps for run in runs] == [20, 20]


def test_only_an_edit_of_all_of_an_image_does_without_a_prompt():
    assert make(prompt="").prompt == ""
    with pytest.raises(DianjingError, match="prompt"):
        make(prompt="", words="a cat")
