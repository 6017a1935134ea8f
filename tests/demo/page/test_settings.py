"""The settings of a tab as arguments of a request."""

import pytest

from dianjing.demo.limits import AdapterInfo, ModelCapabilities
from dianjing.demo.page.settings import randomize_seed, to_forecast_arguments, to_request_arguments

MODEL = {
    "model": "tiny",
    "default_size_px": 64,
    "size_multiple_px": 16,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
}


def test_a_typed_seed_is_used_and_an_empty_one_is_left_to_chance():
    values = ["", 64.0, None, 30, 4.5, "apg:eta=0.5", "", "7", False]
    assert to_request_arguments(values, ModelCapabilities(**MODEL)) == {
        "negative_prompt": None,
        "width": 64,
        "height": None,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "guidance_mode": "apg:eta=0.5",
        "scheduler": None,
        "seed": 7,
        "visible_label": False,
        "adapters": None,
    }
    values[7] = " "
    assert to_request_arguments(values, ModelCapabilities(**MODEL))["seed"] is None
    values[7] = "seven"
    with pytest.raises(ValueError, match="whole number"):
        to_request_arguments(values, ModelCapabilities(**MODEL))
    assert randomize_seed() != randomize_seed()


def test_every_adapter_has_a_strength_of_its_own():
    adapters = (AdapterInfo(name="robot", scale=0.8), AdapterInfo(name="ink", scale=1.0))
    values = ["", 64, 64, 30, 4.5, "", "", "", False, 0.5, 0.0]
    arguments = to_request_arguments(values, ModelCapabilities(**MODEL, adapters=adapters))
    assert arguments["adapters"] == {"robot": 0.5, "ink": 0.0}


@pytest.mark.parametrize(
    ("choice", "expected"), [("own", (30, 4.5, None)), ("default", (None, None, None)), ("few", (None, None, False))]
)
def test_steps_and_guidance_count_where_they_are_chosen(choice, expected):
    adapters = (AdapterInfo(name="robot", scale=0.8),)
    capabilities = ModelCapabilities(**MODEL, adapters=adapters)
    values = ["", 64, 64, 30, 4.5, "", "", "", False, 0.5, choice]
    forecast = to_forecast_arguments([64, 64, 30, 4.5, 0.5, choice], capabilities)
    for arguments in (to_request_arguments(values, capabilities), forecast):
        assert (arguments["num_inference_steps"], arguments["guidance_scale"], arguments.get("slow")) == expected
        assert arguments["adapters"] == {"robot": 0.5}
