"""`dianjing video` and `dianjing animate` with published video classes of tiny random weights, end to end."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from dianjing.cli import published_job
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.video import published_cost
from tests.dianjing.cli.test_video import run
from tests.published import IMAGE_MODELS, TEXT_MODELS

CONTROL = ("--mask", "mask.png", "--motion", "move right")
LENGTH = ("--num-frames", "5", "--steps", "2", "--seed", "3")


@pytest.fixture(autouse=True)
def picture(tmp_path, monkeypatch):
    """A red square on grey, 64 x 64 px."""
    monkeypatch.chdir(tmp_path)
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[4:16, 8:24] = (220, 30, 30)
    Image.fromarray(pixels).save("square.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[4:16, 8:24] = 255
    Image.fromarray(mask).save("mask.png")
    return pixels


def generate(folder, **arguments):
    """The frames of diffusers' own pipeline, uint8."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3), "output_type": "np"}
    return (pipe(**settings, **arguments).frames[0] * 255).round().astype(np.uint8)


def get_size(name):
    return (32, "32x32") if "1.5" in name else (64, "64x64")


@pytest.fixture
def get_folder(published_folder, capsys):
    """Make the folder of a model, without what libraries print meanwhile."""

    def get(name):
        folder = published_folder(name)
        capsys.readouterr()
        return folder

    return get


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_video_writes_the_frames_of_diffusers(get_folder, monkeypatch, capsys, name):
    side, size = get_size(name)
    where = ("--size", size, "--model", get_folder(name), "--out", "a.png", "--json")
    code, out, err = run(monkeypatch, capsys, "video", "a red square jumps", *LENGTH, *where)
    assert code == 0, err
    paths = json.loads(out)["paths"]
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    expected = generate(get_folder(name), prompt="a red square jumps", num_frames=5, height=side, width=side)
    assert np.array_equal(frames, expected)
    settings = read_image_metadata(paths[0]).settings
    assert settings["num_inference_steps"] == 2
    assert settings["pipeline"].startswith(("Hunyuan", "Wan"))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_animate_moves_a_mask_and_keeps_what_is_outside(get_folder, monkeypatch, capsys, name, picture):
    side, size = get_size(name)
    where = ("--size", size, "--model", get_folder(name), "--json")
    frames = {}
    for out_name, options in {
        "plain.png": ("--prompt", "a red square"),
        "strict.png": CONTROL,
        "free.png": (*CONTROL, "--free-background"),
    }.items():
        command = ("animate", "square.png", *options, *LENGTH, *where, "--out", out_name)
        code, out, err = run(monkeypatch, capsys, *command)
        assert code == 0, err
        paths = json.loads(out)["paths"]
        frames[out_name] = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    still = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
    assert (frames["strict.png"][:, -side // 8 :] == still[-side // 8 :]).all()
    assert not (frames["free.png"][:, -side // 8 :] == still[-side // 8 :]).all()
    assert not np.array_equal(frames["plain.png"], frames["strict.png"])


@pytest.fixture
def folder_without_weights(published_folder, tmp_path):
    def copy(name):
        folder = tmp_path / name
        shutil.copytree(published_folder(name), folder, ignore=shutil.ignore_patterns("*.safetensors"))
        return folder

    return copy


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("wan-2.1-t2v", ("video", "a cat", "--num-frames", "24"), "nearest numbers of frames: 21, 25"),
        ("wan-2.2-ti2v", ("video", "a cat", "--size", "80x64"), "the nearest size is 64x64"),
        ("wan-2.1-t2v", ("video", "a cat", "--seconds", "60"), "nearest numbers of frames: 125"),
        ("wan-2.1-i2v", ("animate", "square.png", *CONTROL, "--num-frames", "1"), "num_frames is 1"),
        ("wan-2.1-i2v", ("animate", "square.png", *CONTROL, "--refine", "on"), "--refine has no meaning"),
        ("wan-2.1-i2v", ("animate", "square.png", *(17 * CONTROL)), "takes 1 to 16"),
        ("wan-2.1-t2v", ("animate", "square.png", "--prompt", "a cat"), "from a text alone"),
        ("wan-2.1-i2v", ("video", "a cat"), "from an image"),
        ("wan-2.1-i2v", ("animate", "square.png"), "prompt is empty"),
        ("hunyuan-t2v", ("video", "a cat", "--negative-prompt", "a dog"), "negative_prompt has no meaning"),
        ("hunyuan-t2v", ("video", "a cat", "--joint"), "long_video has no meaning"),
        ("hunyuan-t2v", ("video", "a cat", "--lora", "owner/name"), "--lora has no meaning"),
        ("wan-2.1-t2v", ("video", "a cat", "--enhance", "no where"), "--enhance"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_its_weights_load(
    folder_without_weights, monkeypatch, capsys, tmp_path, name, arguments, message
):
    folder = folder_without_weights(name)
    before = set(tmp_path.iterdir())
    code, _, err = run(monkeypatch, capsys, *arguments, "--model", folder)
    assert code == 2
    assert message in err
    assert set(tmp_path.iterdir()) == before


def test_a_registered_model_of_another_task_is_refused_before_it_is_downloaded(monkeypatch, capsys):
    monkeypatch.setattr(published_job, "resolve_model", lambda name: pytest.fail("it was downloaded"))
    code, _, err = run(monkeypatch, capsys, "video", "a cat", "--model", "hunyuan-video-i2v")
    assert code == 2
    assert "hunyuan-video-i2v makes videos from an image" in err


def test_an_enhanced_prompt_is_the_one_that_is_generated_and_recorded(get_folder, monkeypatch, capsys, tmp_path):
    (tmp_path / "chat").mkdir()
    answers = ['<think>short</think>"a red\nsquare jumps"', ""]

    def load_chat_model(name, *, device):
        return lambda messages: answers[0] if messages[-1]["content"] == "jump" else answers[1]

    monkeypatch.setattr("dianjing.pipelines.conversation.parsing.chat_model.load_chat_model", load_chat_model)
    monkeypatch.setattr(published_cost, "measure_matmul", lambda device, dtype: 1e4)
    where = ("--size", "64x64", "--model", get_folder("wan-2.1-t2v"), "--enhance", "chat")
    for prompt, recorded in (("jump", "a red square jumps"), ("cat", "cat")):
        code, out, err = run(monkeypatch, capsys, "video", prompt, *LENGTH, *where, "--out", f"{prompt}.png", "--json")
        assert code == 0, err
        result = json.loads(out)
        assert result["prompt"] == recorded
        assert result["settings"].get("original_prompt") == (None if prompt == recorded else prompt)
        assert "by a rough estimate" in err
    assert "the prompt stays as it is" in err
