"""`dianjing edit` with a real pipeline, end to end: a tiny one with random weights."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from dianjing.cli import app
from dianjing.pipelines.media.image import get_input_image_metadata, read_image_metadata
from dianjing.pipelines.media.mask import grow_mask

RIM_PX = 6


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run `dianjing edit` in a folder with a picture and a mask; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    mask = np.zeros((32, 48), bool)
    mask[8:20, 4:16] = True
    Image.fromarray(mask).save("mask.png")
    monkeypatch.setattr("dianjing.cli.edit.print_json", lambda value: print(json.dumps(value)))

    def run(*arguments):
        settings = ["--model", str(tiny_folder), "--steps", "2", "--seed", "3"]
        monkeypatch.setattr(sys, "argv", ["dianjing", "edit", "in.png", "cat", *arguments, *settings])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        return stopped.value.code, *capsys.readouterr()

    return run


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_mask_changes_its_part_and_the_file_says_of_what(run):
    code, out, err = run("--mask", "mask.png", "--out", "out.png", "--json")
    assert code == 0, err
    before, after, mask = read("in.png"), read("out.png"), read("mask.png")[..., 0] > 0
    is_changed = (before != after).any(axis=2)
    assert is_changed[mask].mean() > 0.9
    assert not (is_changed & ~grow_mask(mask, radius_px=RIM_PX)).any()
    settings = read_image_metadata("out.png").settings
    assert json.loads(out)["images"][0]["settings"] == settings
    assert settings["image"] == get_input_image_metadata(Image.open("in.png"), name="in.png")
    assert settings["strength"] == 1
    assert (settings["width"], settings["height"]) == (48, 32)


@pytest.mark.parametrize(
    "selection",
    [
        ["--mask", "mask.png", "--padding-mask-crop", "4"],
        ["--click", "10,10;-40,5"],
        ["--what", "cat"],
        ["--extend", "left=16,top=8"],
        ["--strength", "0.5", "--count", "2"],
    ],
    ids=str,
)
def test_the_metadata_of_an_edit_make_the_same_image_again(run, selection):
    assert run(*selection, "--out", "out.png")[0] == 0
    first = "out-1.png" if "--count" in selection else "out.png"
    metadata = read_image_metadata(first)
    size = f"{metadata.settings['width']}x{metadata.settings['height']}"
    selection = [argument for argument in selection if argument not in ("--count", "2")]
    again = ["--size", size, "--guidance-scale", str(metadata.settings["guidance_scale"])]
    assert run(*selection, *again, "--out", "again.png")[0] == 0
    assert (read(first) == read("again.png")).all()
    assert read_image_metadata("again.png") == metadata


def test_an_extension_keeps_the_picture_and_adds_what_it_says(run):
    assert run("--extend", "left=20", "--extend", "bottom=8", "--out", "out.png")[0] == 0
    before, after = read("in.png"), read("out.png")
    assert after.shape == (40, 68, 3)
    assert (after[: 32 - RIM_PX, 20 + RIM_PX :] == before[: 32 - RIM_PX, RIM_PX:]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "mask.png", "--what", "cat"], "several ways"),
        (["--mask", "none.png"], "none.png"),
        (["--strength", "1.5"], "strength"),
        (["--strength", "nan"], "strength"),
        (["--click", "100,3"], "outside"),
        (["--click", "x"], "x"),
        (["--extend", "up=4"], "'up=4'"),
        (["--extend", "left=0"], "adds no pixel"),
        (["--extend", "left=4,left=5"], "left=5"),
        (["--padding-mask-crop", "4"], "padding_mask_crop"),
        (["--what", " "], "words"),
    ],
    ids=str,
)
def test_what_cannot_be_edited_is_refused_before_weights_load(run, monkeypatch, arguments, message):
    monkeypatch.setattr("dianjing.cli.image_conditions.load_pipeline", None)
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_a_mask_of_another_size_or_without_white_is_refused(run):
    Image.new("L", (48, 32)).save("black.png")
    Image.new("L", (32, 48), "white").save("upright.png")
    assert "black.png is empty" in run("--mask", "black.png")[2]
    assert "upright.png has 32 x 48 px" in run("--mask", "upright.png")[2]
