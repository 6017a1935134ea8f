"""The settings of a tab as arguments of a request."""

import pytest

from dianjing.demo.page.settings import randomize_seed, to_request_arguments


def test_a_typed_seed_is_used_and_an_empty_one_is_left_to_chance():
    values = ["", 64.0, None, 30, 4.5, "7", False]
    assert to_request_arguments(values) == {
        "negative_prompt": None,
        "width": 64,
        "height": None,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "seed": 7,
        "visible_label": False,
    }
    values[5] = " "
    assert to_request_arguments(values)["seed"] is None
    values[5] = "seven"
    with pytest.raises(ValueError, match="whole number"):
        to_request_arguments(values)
    assert randomize_seed() != randomize_seed()
