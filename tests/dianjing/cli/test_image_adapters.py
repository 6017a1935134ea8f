"""`dianjing image` and `dianjing convert` with several adapters that change the text encoders too: as by hand."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import TextToImagePipeline
from dianjing.cli import app
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.named_schedulers import make_scheduler
from tests.pipelines.random_adapters import make_part

TARGETS = {
    "transformer": ["attn1.to_q", "attn1.to_v", "ff.net.2"],
    "text_encoder": ["query", "value"],
    "text_encoder_2": ["SelfAttention.q", "SelfAttention.v"],
}
SCALES = {"A": 0.8, "B": 0.5}
SCHEDULER = "EulerDiscreteScheduler:use_karras_sigmas=true"
GENERATE = ("cat", "--seed", "1", "--steps", "3", "--guidance-scale", "2", "--scheduler", SCHEDULER, "--json")


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    pipe = TextToImagePipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def adapters(pipe, tmp_path_factory):
    """The tensors of two adapters, and a folder with both; A is for all components, B for the text encoders alone."""
    folder, tensors = tmp_path_factory.mktemp("adapters"), {}
    for seed, (name, components) in enumerate({"A": list(TARGETS), "B": list(TARGETS)[1:]}.items()):
        parts = {each: make_part(getattr(pipe, each), TARGETS[each], seed=seed, scale=1.0) for each in components}
        pipe.save_lora_weights(folder / name, **{f"{each}_lora_layers": part for each, part in parts.items()})
        tensors[name] = parts
    return tensors, folder


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dianjing", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        captured = capsys.readouterr()
        assert stopped.value.code == 0, captured.err
        return captured.out

    return run


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def generate_with_deltas(tiny_folder, tensors, scales):
    """Pixels of a pipeline whose weights hold the adapters' changes, by hand."""
    pipe = TextToImagePipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    for name, scale in scales.items():
        for component, part in tensors[name].items():
            for key, down in part.items():
                if "lora_A" in key:
                    layer = getattr(pipe, component).get_submodule(key.removesuffix(".lora_A.weight"))
                    layer.weight.data += scale * part[key.replace("lora_A", "lora_B")] @ down
    pipe.scheduler = make_scheduler(SCHEDULER, pipe.trained_scheduler)
    generator = torch.Generator().manual_seed(1)
    return np.asarray(pipe("cat", num_inference_steps=3, guidance_scale=2.0, generator=generator).images[0]).astype(int)


def test_several_adapters_and_a_scheduler_act_and_are_in_the_json(run, tiny_folder, adapters, tmp_path):
    tensors, folder = adapters
    results = []
    for number, scales in enumerate((SCALES, {"A": 0.8}, {"B": 0.5}, {})):
        options = [part for name, scale in scales.items() for part in ("--lora", f"{folder / name}:{scale}")]
        out = tmp_path / f"{number}.png"
        report = json.loads(run("image", *GENERATE, *options, "--model", tiny_folder, "--out", out))
        (image,) = report["images"]
        assert [(each["name"], each["scale"]) for each in image["settings"].get("lora", [])] == list(scales.items())
        assert image["settings"]["scheduler"] == SCHEDULER
        assert read_image_metadata(out).settings == image["settings"]
        results.append(read_pixels(out))
        assert np.abs(results[-1] - generate_with_deltas(tiny_folder, tensors, scales)).max() <= 1
    distances = [np.abs(a - b).max() for index, a in enumerate(results) for b in results[:index]]
    assert min(distances) > 1


@pytest.mark.parametrize("to", ["kohya", "comfyui", "diffusers"])
def test_a_converted_adapter_with_parts_for_text_encoders_gives_the_same_image(
    run, tiny_folder, adapters, tmp_path, to
):
    _, folder = adapters
    options = []
    for name, scale in SCALES.items():
        converted = tmp_path / f"{name}.safetensors"
        report = json.loads(run("convert", folder / name, converted, "--to", to, "--json"))
        assert set(report["components"]) == {each for each in TARGETS if name == "A" or each != "transformer"}
        options += ["--lora", f"{converted}:{scale}"]
    originals = [part for name, scale in SCALES.items() for part in ("--lora", f"{folder / name}:{scale}")]
    for out, loras in (("a.png", originals), ("b.png", options)):
        run("image", *GENERATE, *loras, "--model", tiny_folder, "--out", tmp_path / out)
    assert np.abs(read_pixels(tmp_path / "a.png") - read_pixels(tmp_path / "b.png")).max() <= 1
