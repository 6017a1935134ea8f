"""A stub of the image pipeline, and a runner of the command line in this process."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from dianjing.cli import app, image_conditions, image_job


class StubPipeline:
    """A pipeline whose images have the first random byte of their generator as grey level."""

    scheduler = SimpleNamespace()
    device = SimpleNamespace(type="cpu")
    dtype = "torch.float32"
    sampling_params = SimpleNamespace(num_inference_steps=20, guidance_scale=4.5, guider=None)
    trained_scheduler = None
    truncated = ()
    default_adapter = None

    def __init__(self):
        self.calls = []

    def find_nearest_words(self, prompt):
        return {word: () for word in prompt.split() if word == "zyzzyva"}

    def __call__(self, prompt, *, num_images_per_prompt, generator, width=32, height=32, **settings):
        import torch

        self.calls.append({"prompt": prompt, "count": num_images_per_prompt, **settings})
        greys = [int(torch.randint(256, (), generator=one)) for one in generator]
        return SimpleNamespace(images=[Image.new("RGB", (width, height), (g, g, g)) for g in greys])


@pytest.fixture
def stub(monkeypatch, tmp_path):
    pipe = StubPipeline()
    monkeypatch.setattr(image_conditions, "load_pipeline", lambda name, **where: pipe)
    monkeypatch.setattr(image_job, "resolve_local_model", lambda name: None)
    monkeypatch.setattr(image_job, "announce_run", lambda *of_a_run, **options: None)  # it reads the weights
    monkeypatch.chdir(tmp_path)
    return pipe


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process; return (exit code, stdout, stderr)."""
    # pytest's stdout cannot be reconfigured, and needs no escaping
    monkeypatch.setattr("dianjing.cli.image.print_json", lambda value: print(json.dumps(value)))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dianjing", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run
