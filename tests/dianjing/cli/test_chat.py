"""`dianjing chat`: each line of a terminal or a pipe gives an image or an error."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from dianjing.cli import app, chat_job
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata


class Lines(io.TextIOWrapper):
    """A pipe that holds these lines."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content), encoding="utf-8")


@pytest.fixture
def chat(monkeypatch, tmp_path, capsys):
    """Run the command over lines, with grey images as bright as the turn's number; return code, stdout, stderr."""
    from types import SimpleNamespace

    import torch

    loads = []
    pipe = SimpleNamespace(
        scheduler=SimpleNamespace(),
        trained_scheduler=None,
        device=SimpleNamespace(type="cpu"),
        dtype="torch.float32",
        sampling_params=SimpleNamespace(num_inference_steps=20, guidance_scale=3.0, guider=None),
        set_progress_bar_config=lambda **_: None,
    )

    def render(self, scene, seed, **_):
        assert self.pipe is pipe
        grey = 10 * (1 + len(self.turns))
        return Image.new("RGB", (16, 16), (grey, grey, grey)), torch.zeros(1, 4, 2, 2)

    monkeypatch.setattr(Conversation, "_render", render)
    monkeypatch.setattr(chat_job, "load_pipeline", lambda name, **where: loads.append(where) or pipe)
    monkeypatch.chdir(tmp_path)

    def run(lines, *arguments):
        content = lines if isinstance(lines, bytes) else lines.encode("utf-8", "surrogateescape")
        monkeypatch.setattr(sys, "stdin", Lines(content))
        monkeypatch.setattr(sys, "argv", ["dianjing", "chat", *arguments])
        monkeypatch.setattr("dianjing.cli.chat.print_json", lambda value: print(json.dumps(value)))
        with pytest.raises(SystemExit) as stopped:
            app.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    run.loads = loads
    return run


def test_a_slow_conversation_stays_slow_when_it_goes_on(chat):
    assert chat("a cat on the grass\n", "--slow", "--save", "slow.json")[0] == 0
    assert Conversation.load("slow.json").slow is True
    assert chat("a cat on the grass\n", "--save", "fast.json")[0] == 0
    assert Conversation.load("fast.json").slow is None


def test_every_line_becomes_a_numbered_image_with_its_metadata(chat):
    code, out, err = chat("a cat on the grass\n\n加一只小狗\n", "--seed", "7", "--out", "a.png")
    assert code == 0
    assert out.split() == ["a-1.png", "a-2.png"]
    assert "added" not in out
    assert "加了一只小狗" in err
    records = [read_image_metadata(path) for path in out.split()]
    assert records[0].prompt == "a cat on the grass"
    assert "小狗" in records[1].prompt
    assert {(record.seed, record.model) for record in records} == {(7, "sticker")}
    assert XMP_KEY in Image.open("a-1.png").text
    assert len(chat.loads) == 1


def test_json_on_stdout_has_every_turn(chat):
    code, out, _ = chat("a cat and a gryphon\nmake it bigger\n", "--seed", "3", "--json")
    answer = json.loads(out)
    assert code == 0
    assert [turn["path"] for turn in answer["turns"]] == ["dianjing-3-1.png", "dianjing-3-2.png"]
    assert answer["turns"][0]["hints"] == ["this model does not know these words and leaves them out: gryphon"]
    assert answer["turns"][1]["changes"] == ["made the cat bigger"]


def test_a_refused_line_is_reported_and_the_next_is_run(chat):
    code, out, err = chat("a cat\nremove the dog\nadd a dog\n", "--out", "a.png", "--no-label")
    assert code == 2  # one line failed
    assert out.split() == ["a-1.png", "a-2.png"]
    assert "error: there is no dog in the image" in err
    assert XMP_KEY not in Image.open("a-1.png").text


def test_an_error_is_in_the_language_of_its_line(chat):
    _, _, err = chat("画一只小猫\n去掉小狗\nremove the dog\n", "--out", "a.png")
    assert "error: 图片里没有小狗" in err
    assert "error: there is no dog" in err


def test_an_image_can_be_generated_again_from_its_metadata(tiny_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dianjing", "chat", "--seed", "5", "--out", "a.png", "--model", str(tiny_folder)])
    monkeypatch.setattr(sys, "stdin", Lines("a cat on the left\nadd a dog\n再画一次\npaint it blue\nundo\n".encode()))
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 0
    metadata = read_image_metadata("a-5.png")
    assert metadata.settings["instructions"] == ["a cat on the left", "add a dog", "再画一次"]
    names = ("num_inference_steps", "guidance_scale")
    conversation = Conversation(metadata.model, seed=metadata.seed, **{name: metadata.settings[name] for name in names})
    for text in metadata.settings["instructions"]:
        turn = conversation.send(text)
    with Image.open("a-5.png") as written:
        assert written.convert("RGB").tobytes() == turn.image.tobytes()


BAD_LINES = [b"zyzzyva\n", b"cat\x00\n", b"cat\xff\n", "猫".encode() * 350_000, b"undo\n"]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: repr(line[:8]))
def test_a_bad_line_is_refused_before_weights_load(chat, line):
    code, out, err = chat(line)
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""
    assert chat.loads == []
    assert list(Path().iterdir()) == []


def test_a_saved_conversation_can_be_continued(chat):
    chat("a cat\n", "--save", "talk.json", "--seed", "7")
    code, _, err = chat("make it bigger\nundo\n", "--load", "talk.json", "--save", "talk.json")
    assert code == 0
    assert "made the cat bigger" in err
    assert [turn.text for turn in Conversation.load("talk.json").turns] == ["a cat"]


def test_a_name_in_use_is_skipped(chat):
    Path("a-1.png").write_bytes(b"mine")
    _, out, _ = chat("a cat\n", "--out", "a.png")
    assert out.split() == ["a-2.png"]
    assert Path("a-1.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "none/a.png"], "does not exist"),
        (["--out", "a.jpg"], "does not end in .png"),
        (["--save", "a.png"], "does not end in .json"),
        (["--load", "none.json"], "cannot be read"),
        (["--seed", "-1"], "seed is -1"),
        (["--steps", "0"], "num_inference_steps is 0"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--model", "stiker"], "did you mean 'sticker'"),
    ],
)
def test_bad_options_end_with_2_and_a_reason(chat, arguments, reason):
    code, out, err = chat("a cat\n", *arguments)
    assert code == 2
    assert reason in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path().iterdir()) == []
