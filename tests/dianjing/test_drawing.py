"""The command draws with a real pipeline, end to end: a tiny one with random weights."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from dianjing.pipelines.media import XMP_KEY, read_settings


@pytest.fixture
def draw(tiny_folder, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "dianjing.cli", "image", *arguments, "--model", str(tiny_folder)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)

    return run


def test_one_command_draws_and_json_holds_nothing_else(draw, tiny_folder, tmp_path):
    done = draw("小猫", "cat", "--count", "2", "--seed", "3", "--size", "48x32", "--out", "a.png", "--json")
    assert done.returncode == 0, done.stderr
    pictures = json.loads(done.stdout)["pictures"]
    assert [picture["path"] for picture in pictures] == [f"a-{i}.png" for i in range(1, 5)]
    assert [picture["seed"] for picture in pictures] == [3, 4, 3, 4]
    record = read_settings(tmp_path / "a-1.png")
    assert record.prompt == "小猫"
    assert record.model == str(tiny_folder)
    assert record.settings["num_inference_steps"] == 2
    assert record.settings["guidance_scale"] == 3.0
    with Image.open(tmp_path / "a-1.png") as picture:
        assert picture.size == (48, 32)
        assert XMP_KEY in picture.text


def test_a_picture_can_be_made_again_from_what_its_file_says(draw, tmp_path):
    assert draw("cat", "--seed", "5", "--count", "2", "--guidance", "2", "--out", "a.png").returncode == 0
    record = read_settings(tmp_path / "a-2.png")
    settings = record.settings
    again = draw(
        record.prompt, "--seed", str(record.seed), "--out", "b.png",
        "--size", f"{settings['width']}x{settings['height']}",
        "--steps", str(settings["num_inference_steps"]),
        "--guidance", str(settings["guidance_scale"]),
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    with Image.open(tmp_path / "a-2.png") as first, Image.open(tmp_path / "b.png") as second:
        differences = [abs(x - y) for x, y in zip(first.tobytes(), second.tobytes(), strict=True)]
    assert max(differences) <= 1  # a batch of two and a batch of one may round differently
