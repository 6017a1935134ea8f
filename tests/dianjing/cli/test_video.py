"""`dianjing video` and `dianjing animate`, end to end with tiny random weights, and their errors."""

import hashlib
import json
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from dianjing import ImageToVideoPipeline
from dianjing.cli import app, video_job
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video_metadata
from dianjing.pipelines.segmentation.base import Point, Region, parse_click
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.video.warped_image import make_warped_image
from dianjing.train.evaluation.transparency import sample_scenes
from tests.dianjing.cli.test_image import write_lora


def run(monkeypatch, capsys, *arguments):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["dianjing", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    out = capsys.readouterr()
    return stopped.value.code, out.out, out.err


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """A red square on grey, 32 x 32 px, and its mask."""
    monkeypatch.chdir(tmp_path)
    pixels = np.full((32, 32, 3), 128, np.uint8)
    pixels[10:22, 10:22] = (220, 30, 30)
    Image.fromarray(pixels).save("square.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[10:22, 10:22] = 255
    Image.fromarray(mask).save("mask.png")
    return pixels


def decode_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_frames(path):
    with Image.open(path) as video:
        return [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(video)]


def test_one_command_animates_a_click_and_stdout_is_json(tiny_video_folder, picture, tmp_path):
    options = ["square.png", "--click", "16,16", "--motion", "cat", "--strength", "0.7", "--seed", "3"]
    where = ["--out", "a.mp4", "--num-frames", "5", "--model", str(tiny_video_folder), "--json"]
    command = [sys.executable, "-m", "dianjing", "animate", *options, *where]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["paths"] == ["a.mp4"]
    frames = decode_frames(tmp_path / "a.mp4")
    assert len(frames) == 5
    assert np.abs(frames[0].astype(int) - picture).mean() < 4  # H.264 is lossy
    record, label = read_video_metadata(tmp_path / "a.mp4")
    assert record.seed == 3
    assert record.settings["regions"][0]["motion"] == "cat"
    assert record.settings["regions"][0]["strength"] == 0.7
    assert label["Label"] == "1"
    pixels_sha256 = hashlib.sha256(picture.tobytes()).hexdigest()
    assert record.settings["image"] == {"name": "square.png", "width": 32, "height": 32, "pixels_sha256": pixels_sha256}


def test_a_video_has_the_requested_duration(tiny_video_folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ("video", "cat", "--seconds", "1.5", "--fps", "6", "--out", "a.webp", "--model", tiny_video_folder)
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert out == "a.webp\n"
    with Image.open("a.webp") as video:
        assert video.n_frames == 9
    record, _ = read_video_metadata("a.webp")
    assert record.settings["fps"] == 6
    assert record.prompt == "cat"


def test_a_video_can_be_generated_again_from_its_seed(tiny_video_folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        where = ("--out", f"{name}.png", "--num-frames", "6", "--seed", "9", "--model", tiny_video_folder)
        assert run(monkeypatch, capsys, "video", "cat", *where)[0] == 0
    for number in range(1, 7):
        with Image.open(f"a-{number:04d}.png") as one, Image.open(f"b-{number:04d}.png") as other:
            assert one.tobytes() == other.tobytes()


def test_a_long_video_can_be_generated_again_from_its_metadata(tiny_video_folder, monkeypatch, capsys, tmp_path):
    """The frames after the first are sampled with other settings, which the metadata has, too."""
    monkeypatch.chdir(tmp_path)
    options = ("--num-frames", "9", "--seed", "4", "--size", "32", "--continuation-steps", "3", "--steps", "2")
    model = ("--model", tiny_video_folder)
    run(monkeypatch, capsys, "video", "cat", *options, *model, "--out", "a.png", "--continuation-guidance-scale", "2")
    metadata = read_image_metadata("a-0001.png")
    settings = metadata.settings
    names = ("num_frames", "fps", "guidance_scale", "continuation_steps", "continuation_guidance_scale")
    again = [part for name in names for part in (f"--{name.replace('_', '-')}", settings[name])]
    again += ["--size", f"{settings['width']}x{settings['height']}", "--steps", settings["num_inference_steps"]]
    code, _, err = run(
        monkeypatch, capsys, "video", metadata.prompt, *again, *model, "--seed", metadata.seed, "--out", "b.png"
    )
    assert code == 0, err
    for number in range(1, 10):
        with Image.open(f"a-{number:04d}.png") as first, Image.open(f"b-{number:04d}.png") as second:
            assert first.tobytes() == second.tobytes()


def test_a_mask_preview_of_an_image_in_no_size_of_the_model_needs_no_weights(monkeypatch, capsys, picture):
    picture = np.pad(picture, ((0, 4), (0, 0), (0, 0)), mode="edge")  # of a height that the model does not generate
    Image.fromarray(picture).save("square.png")
    monkeypatch.setattr(video_job, "load_pipeline", lambda *a, **k: pytest.fail("weights were loaded"))
    code, out, _ = run(
        monkeypatch, capsys, "animate", "square.png", "--click", "16,16", "--mask-preview", "preview.png"
    )
    assert (code, out) == (0, "preview.png\n")
    with Image.open("preview.png") as preview:
        changed = np.any(np.asarray(preview) != picture, axis=-1)
    assert changed[12:20, 12:20].all()
    assert not changed[:6].any()


def test_a_mask_preview_of_an_image_of_the_model_shows_the_mask_that_python_predicts(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    sample = next(each for each in sample_scenes(40, seed=77, size_px=128) if len(each.masks) == 2)
    row, column = (int(each.mean()) for each in np.nonzero(sample.masks[0]))
    Image.fromarray(sample.image).save("scene.png")
    click = ("--click", f"{column},{row}", "--mask-preview", "preview.png")
    assert run(monkeypatch, capsys, "animate", "scene.png", *click)[0] == 0
    changed = np.any(np.asarray(Image.open("preview.png")) != sample.image, axis=-1)
    region = Region(motion="jump", points=[Point(x=column, y=row)])
    (mask,) = ImageToVideoPipeline.from_pretrained("sticker").predict_masks(sample.image, [region])
    assert not (changed & ~mask).any()
    assert (changed & mask).sum() > 0.95 * mask.sum()  # a pixel of the color of the tint does not change
    grabcut = GrabCutSegmenter()
    grabcut.set_image(sample.image)
    assert not np.array_equal(mask, grabcut.predict(region.points))


def test_clicks_are_parsed_to_points():
    assert parse_click("30,40") == [Point(x=30, y=40)]
    assert parse_click("30.5, 40; -5,6") == [Point(x=30.5, y=40), Point(x=5, y=6, positive=False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["animate", "none.png", "--click", "1,1", "--motion", "cat"], "no file none.png"),
        (["animate", "square.png"], "no region is given"),
        (["animate", "square.png", "--click", "1;2", "--motion", "cat"], "give X,Y in pixels"),
        (["animate", "square.png", "--click", "40,2", "--motion", "cat"], "outside the image of 32 x 32"),
        (["animate", "square.png", "--click", "nan,2", "--motion", "cat"], "is no position"),
        (["animate", "square.png", "--click", "9,9"], "0 --motion for 1"),
        (["animate", "square.png", "--click", "9,9", "--motion", "cat", "--strength", "2"], "strength is 2"),
        (["animate", "square.png", "--mask", "mask.png", "--motion", " "], "motion is empty"),
        (["animate", "square.png", "--region", "click=9,9"], "motion is empty"),
        (["animate", "square.png", "--region", "clik=9,9;motion=cat"], "clik=9,9"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9"], "1 point"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9 40,9"], "outside the image of 32 x 32"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9 nan,9"], "is no position"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9 x,9"], "path is 'x'"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9 12,9;times=0.5 0.2"], "from 0.5 to 0.2"),
        (["animate", "square.png", "--region", "click=9,9;path=" + "9,9 " * 100_000], "100,000 points"),
        (["animate", "square.png", *["--region", "click=9,9;turn=9"] * 17], "17 regions are given"),
        (["animate", "square.png", "--region", "click=9,9;turn=9", "--free-background"], "for published video models"),
        (["animate", "square.png", "--region", "click=9,9;turn=much"], "turn is 'much'"),
        (["animate", "square.png", "--region", "path=9,9 12,9"], "points or a mask"),
        (["animate", "square.png", "--region", "click=9,9;path=9,9 12,9", "--refine", "on"], "refine 'on' takes"),
        (["animate", "square.png", "--mask", "square.png", "--motion", "cat"], "square.png covers the whole image"),
        (["animate", "square.png", "--mask", "broken.png", "--motion", "cat"], "broken.png cannot be read"),
        (["animate", "broken.png", "--click", "1,1", "--motion", "cat"], "cannot be read as an image"),
        (["animate", "thin.png", "--click", "1,1", "--motion", "cat"], "20 times"),
        (["video", "cat", "--out", "a.avi"], "a.avi does not end in"),
        (["video", "cat", "--lora", "nowhere.safetensors"], "there is no adapter nowhere.safetensors"),
        (["video", "cat", "--out", "nowhere/a.mp4"], "does not exist"),
        (["video", "cat", "--num-frames", "0"], "num_frames is 0"),
        (["video", "cat", "--num-frames", "1000000000000"], "fit in half of the memory"),
        (["video", "cat", "--seconds", "-1"], "duration_s is -1"),
        (["video", "cat", "--seconds", "2", "--num-frames", "3"], "give one of them"),
        (["video", "cat", "--fps", "0"], "fps is 0"),
        (["video", ""], "prompt is empty"),
        (["video", "cat", "--size", "50"], "50 px is not a multiple"),
        (["video", "cat", "--device", "gpu"], "--device is 'gpu'"),
    ],
)
def test_bad_input_ends_with_2_before_weights_load(
    tiny_video_folder, monkeypatch, capsys, picture, tmp_path, arguments, message
):
    Image.fromarray(picture[:1].repeat(1, axis=0)).resize((1, 2000)).save("thin.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "square.png").read_bytes()[:60])
    monkeypatch.setattr(video_job, "load_pipeline", lambda *a, **k: pytest.fail("weights were loaded"))
    arguments = [*arguments, "--model", str(tiny_video_folder)]
    before = set(tmp_path.iterdir())
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert set(tmp_path.iterdir()) == before


def test_an_image_model_is_refused_before_it_loads(tiny_folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_job, "load_pipeline", lambda *a, **k: pytest.fail("weights were loaded"))
    code, _, err = run(monkeypatch, capsys, "video", "cat", "--model", tiny_folder)
    assert code == 2
    assert "generates images only" in err


def test_the_crop_of_another_image_size_is_reported(tiny_video_folder, monkeypatch, capsys, picture):
    Image.fromarray(picture).resize((96, 48)).save("wide.png")
    where = ("--out", "a.gif", "--num-frames", "2", "--model", tiny_video_folder)
    code, _, err = run(monkeypatch, capsys, "animate", "wide.png", "--click", "48,24", "--motion", "cat", *where)
    assert code == 0, err
    assert "96 x 48 px scaled by 0.667 to 32 x 32 px, 32 px of its width cut off" in err


def test_a_path_needs_no_weights_and_keeps_the_size_of_the_image(monkeypatch, capsys, picture):
    monkeypatch.setattr(video_job, "load_pipeline", lambda *a, **k: pytest.fail("weights were loaded"))
    Image.fromarray(picture).resize((90, 50)).save("wide.png")
    region = "click=45,25;path=45,25 60,20 70,25;turn=20;times=0 0.5 1"
    code, _, err = run(
        monkeypatch, capsys, "animate", "wide.png", "--region", region, "--num-frames", 4, "--out", "a.webp"
    )
    assert code == 0, err
    with Image.open("a.webp") as video:
        assert (video.size, video.n_frames) == ((90, 50), 4)
    settings = read_video_metadata("a.webp")[0].settings
    assert settings["refine"] == "off"
    assert settings["regions"][0]["path"] == [[45, 25], [60, 20], [70, 25]]
    assert settings["regions"][0]["turn"] == 20


def test_the_command_makes_the_frames_of_python(monkeypatch, capsys, picture):
    command = ("animate", "square.png", "--region", "mask=mask.png;path=16,16 24,12;scale=0.8", "--num-frames", 3)
    code, _, err = run(monkeypatch, capsys, *command, "--out", "a.png")
    assert code == 0, err
    mask = np.asarray(Image.open("mask.png")) > 0
    warped = make_warped_image(picture, [Region(mask=mask, path=[(16, 16), (24, 12)], scale=0.8)], num_frames=3)
    for number, frame in enumerate(warped.frames, start=1):
        np.testing.assert_array_equal(np.asarray(Image.open(f"a-{number:04d}.png")), frame)


@pytest.mark.parametrize(
    "command", [("video", "cat"), ("animate", "square.png", "--click", "16,16", "--motion", "cat")]
)
def test_an_adapter_changes_the_video_and_is_named_in_it(tiny_video_folder, monkeypatch, capsys, picture, command):
    write_lora("adapter", tiny_video_folder)
    where = ("--num-frames", "4", "--seed", "3", "--model", tiny_video_folder, "--out")
    for name, options in (("plain.webp", ()), ("adapted.webp", ("--lora", "adapter"))):
        code, _, err = run(monkeypatch, capsys, *command, *where, name, *options)
        assert code == 0, err
    assert read_frames("plain.webp") != read_frames("adapted.webp")
    assert read_video_metadata("adapted.webp")[0].settings["lora"][0]["name"] == "adapter"
    assert "lora" not in read_video_metadata("plain.webp")[0].settings


@pytest.mark.parametrize("extension", [".webp", ".apng", ".gif", ".png"])
def test_a_region_is_cut_out_and_moves_without_its_background(picture, monkeypatch, capsys, extension):
    regions = ["--region", "mask=mask.png;path=16,16 20,16", "--transparent", "--num-frames", "3"]
    code, out, err = run(monkeypatch, capsys, "animate", "square.png", *regions, "--out", f"a{extension}")
    assert code == 0, err
    paths = out.split()
    assert len(paths) == (3 if extension == ".png" else 1)
    with Image.open(paths[-1]) as video:
        video.seek(getattr(video, "n_frames", 1) - 1)
        alpha = np.asarray(video.convert("RGBA"))[..., 3]
    moved = np.zeros((32, 32), bool)
    moved[10:22, 14:26] = True
    np.testing.assert_array_equal(alpha > 127, moved)
    record = read_image_metadata(paths[0]) if extension == ".png" else read_video_metadata(paths[0])[0]
    assert record.settings["background"] == "transparent"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("video", "a cat jumping", "--out", "a.mp4"), "use one of .webp, .apng, .gif, .png"),
        (("video", "a cat jumping", "--joint"), "long_video"),
        (("video", "a cat jumping", "--continuation-steps", "4"), "continuation_steps"),
        (("video", "a cat on the grass"), "what moves and how"),
        (("video", "on the beach"), "names no object"),
        (("video", "a cat jumping", "--model", "wan-2.1-t2v-1.3b"), "without a transparent background"),
        (("animate", "square.png", "--click", "16,16", "--motion", "jump", "--refine", "on"), "refine is on"),
        (("animate", "square.png", "--region", "target=image;path=4,4 8,8"), "camera move"),
    ],
)
def test_what_cannot_be_transparent_is_refused_before_weights_load(picture, monkeypatch, capsys, arguments, part):
    monkeypatch.setattr(video_job, "load_video_pipeline", None)
    code, _, err = run(monkeypatch, capsys, *arguments, "--transparent")
    assert code == 2
    assert part in " ".join(err.split())
