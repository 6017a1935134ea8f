"""Every example runs offline with the bundled model and writes what it promises."""

import ast
import json
import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video_metadata
from tests.demo.security.conftest import run_server

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture
def run_example(monkeypatch, tmp_path, capsys):
    """Run an example in this process, in a folder of its own; return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_every_example_is_listed_and_run_here():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    assert len(names) == 8
    assert all(f"({name})" in listed and f'"{name}"' in tests for name in names)


def test_every_cell_of_the_notebook_runs_and_shows_an_image(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    variables = {}
    for cell in cells:
        *statements, last = ast.parse(cell).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), variables)
        image = eval(compile(ast.Expression(last.value), "cell", "eval"), variables)
        assert np.asarray(image).std() > 10


def test_text_to_image_writes_an_image(run_example):
    assert run_example("text_to_image.py", "a cat on the grass", "--out", "cat.png") == "cat.png\n"
    assert read_pixels("cat.png").std() > 10


def test_batch_with_seeds_generates_one_image_again_from_its_metadata(run_example):
    run_example("batch_with_seeds.py", "--count", "2", "--out", "images")
    assert [read_image_metadata(f"images/{seed}.png").seed for seed in (0, 1)] == [0, 1]
    first, second, again = (read_pixels(f"images/{name}.png").astype(int) for name in ("0", "1", "again"))
    assert np.abs(first - again).max() <= 1  # a batch of two and a batch of one may round differently
    assert np.abs(first - second).max() > 50
    assert read_pixels("images/grid.png").shape[1] == 2 * first.shape[1]


def test_fine_tune_exports_an_adapter_that_lora_uses(run_example):
    Path("pictures").mkdir()
    for index, level in enumerate((40, 200)):
        Image.new("RGB", (64, 64), (level, 80, 120)).save(f"pictures/{index}.png")
        Path(f"pictures/{index}.txt").write_text("a cat on the grass", encoding="utf-8")
    out = run_example("fine_tune.py", "pictures", "--out", "runs/example", "--steps", "4", "--batch", "2")
    assert out.endswith(f"{Path('runs/example/export')}\n")
    run_example("lora.py", "runs/example/export")
    assert (read_pixels("with_lora.png") != read_pixels("without_lora.png")).any()


def test_animate_click_writes_a_video_of_the_generated_image(run_example):
    run_example("animate_click.py", "--out", "jump.mp4")
    metadata, label = read_video_metadata("jump.mp4")
    assert metadata.settings["regions"][0]["motion"] == "jump"
    assert len(metadata.settings["image"]["pixels_sha256"]) == 64
    assert label is not None
    assert count_frames("jump.mp4") == metadata.settings["num_frames"] > 1


def test_text_to_video_has_the_duration(run_example):
    run_example("text_to_video.py", "--seconds", "1", "--out", "cat.mp4")
    metadata, _ = read_video_metadata("cat.mp4")
    assert count_frames("cat.mp4") == metadata.settings["num_frames"] == metadata.settings["fps"]


def test_conversation_edits_saves_and_continues(run_example):
    lines = run_example("conversation.py", "--out", "images").splitlines()
    assert [line.partition(":")[0] for line in lines][:2] == ["a cat on the left on the grass", "右边加一只小狗"]
    assert "there is no horse" in lines[3]
    assert (read_pixels("images/6.png") == read_pixels("images/3.png")).all()  # "undo" after the change of background
    turns = json.loads(Path("images/conversation.json").read_text(encoding="utf-8"))["turns"]
    assert [turn["text"] for turn in turns] == ["a cat on the left on the grass", "右边加一只小狗", "make it smaller"]
    assert Path("images/continued.png").is_file()


@pytest.mark.timeout(600)  # the machine may be busy
def test_http_client_receives_an_image_and_a_video(run_example, tmp_path):
    with run_server(tmp_path / "server") as server:
        run_example("http_client.py", "--address", f"http://127.0.0.1:{server.port}", "--out", "images")
    assert read_image_metadata("images/cat.png").seed == 7
    assert count_frames("images/cat.mp4") > 1
