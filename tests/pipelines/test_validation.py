"""A bad request is refused before anything loads, with what was given and what is allowed."""

import subprocess
import sys

import numpy as np
import pytest

from dianjing.pipelines.validation import MAX_SEED, ImageRequest, check_side_px

GOOD = {"prompt": "草地上的一只小猫", "seed": 0}


def refused(match, **changes):
    with pytest.raises(ValueError, match=match):
        ImageRequest(**{**GOOD, **changes})


@pytest.mark.parametrize("prompt", ["a cat", "草地上的一只小猫", "🐱🐱", "قطة على العشب", "e\u0301", "two\nlines"])
def test_any_script_is_a_prompt(prompt):
    assert ImageRequest(prompt=prompt, seed=0).prompt == prompt


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u3000"])
def test_an_empty_prompt_is_refused(prompt):
    refused("prompt is empty", prompt=prompt)


def test_a_megabyte_of_prompt_is_refused_in_a_short_error():
    with pytest.raises(ValueError, match="1,000,000 characters, but at most") as caught:
        ImageRequest(**{**GOOD, "prompt": "猫" * 1_000_000})
    assert len(str(caught.value)) < 300


def test_a_nul_in_a_prompt_is_named_with_its_position():
    refused(r"U\+0000 at character 3", prompt="cat\0")


@pytest.mark.parametrize("prompt", ["cat\ud83d", "\udcff"])
def test_a_lone_surrogate_is_refused_printably(prompt):
    with pytest.raises(ValueError, match="surrogate") as caught:
        ImageRequest(prompt=prompt, seed=0)
    str(caught.value).encode()


@pytest.mark.parametrize("prompt", [None, 3, b"cat", ["cat"]])
def test_a_prompt_that_is_no_text_is_refused(prompt):
    refused("give a text", prompt=prompt)


def test_a_negative_prompt_may_be_empty_but_not_broken():
    assert ImageRequest(**GOOD, negative_prompt="").negative_prompt == ""
    refused("negative_prompt contains the control character", negative_prompt="a\0")


@pytest.mark.parametrize("side", [0, -1, 10**9, 64.0, "64", True, float("nan")])
def test_an_impossible_side_is_refused(side):
    refused("width is .*; give a whole number from 1 to", width=side)
    refused("height is", height=side)


def test_a_side_off_the_grid_is_refused_with_the_nearest_on_it():
    refused("width 100 px is not a multiple of 16.*: 96, 112", width=100)
    refused("height 5 px .*: 16", height=5)


def test_the_grid_is_the_models_own():
    assert check_side_px(24, "width", multiple_px=8) == 24
    with pytest.raises(ValueError, match="multiple of 32"):
        check_side_px(48, "width", multiple_px=32)


@pytest.mark.parametrize("steps", [0, -1, 10**6, float("nan"), "20", 20.0, True])
def test_impossible_steps_are_refused(steps):
    refused("num_inference_steps is .*; give a whole number from 1 to 1000", num_inference_steps=steps)


@pytest.mark.parametrize("scale", [float("inf"), float("-inf"), float("nan"), -1, 1e9, "5", True])
def test_an_impossible_guidance_is_refused(scale):
    refused("guidance_scale is .*; give a number from 0 to 100", guidance_scale=scale)


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.0])
def test_an_impossible_count_is_refused(count):
    refused("num_images_per_prompt is .*; give a whole number", num_images_per_prompt=count)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", None])
def test_an_impossible_seed_is_refused(seed):
    refused("seed is .*; give a whole number from 0", seed=seed)


def test_each_image_takes_the_next_seed_up_to_the_last():
    assert ImageRequest(prompt="cat", seed=7, num_images_per_prompt=3).seeds == [7, 8, 9]
    refused("too large for 2 images", seed=MAX_SEED, num_images_per_prompt=2)


def test_numbers_of_numpy_become_plain_ones():
    request = ImageRequest(prompt="cat", seed=np.int64(3), width=np.int32(64), guidance_scale=np.float32(5))
    kinds = [type(value) for value in (request.seed, request.width, request.guidance_scale)]
    assert kinds == [int, int, float]


def test_absence_leaves_a_setting_to_the_model():
    request = ImageRequest(**GOOD)
    assert request.width is None
    assert request.guidance_scale is None


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="steps"):
        ImageRequest(**GOOD, steps=20)


def test_the_checks_load_neither_torch_nor_numpy():
    code = (
        "import sys; import dianjing.pipelines.validation; "
        "print({'torch', 'numpy', 'diffusers', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
