"""The command: quick to answer, readable in its errors, whole in what it writes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from PIL import Image

import dianjing
from dianjing.cli import app, image_job
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "dianjing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


class StubPipeline:
    """Stands for a loaded pipeline: each picture's grey is the first random byte of its generator."""

    scheduler = SimpleNamespace()
    device = SimpleNamespace(type="cpu")
    dtype = "torch.float32"
    num_timesteps = 20
    guidance_scale = 4.5

    def __init__(self):
        self.calls = []

    def find_unknown_words(self, prompt):
        return [word for word in prompt.split() if word == "zyzzyva"]

    def __call__(self, prompt, *, num_images_per_prompt, generator, width=32, height=32, **settings):
        import torch

        self.calls.append({"prompt": prompt, "count": num_images_per_prompt, **settings})
        greys = [int(torch.randint(256, (), generator=one)) for one in generator]
        return SimpleNamespace(images=[Image.new("RGB", (width, height), (g, g, g)) for g in greys])


@pytest.fixture
def stub(monkeypatch, tmp_path):
    pipe = StubPipeline()
    monkeypatch.setattr(image_job, "load_pipeline", lambda name, **where: pipe)
    monkeypatch.setattr(image_job, "resolve_local_model", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return pipe


def call(monkeypatch, capsys, *arguments):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["dianjing", *arguments])
    # pytest's stdout cannot be reconfigured, and needs no escaping
    monkeypatch.setattr("dianjing.cli.image.print_json", lambda value: print(json.dumps(value)))
    with pytest.raises(SystemExit) as stopped:
        app.main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        assert run("--help").returncode == 0
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; import dianjing.cli.app; print(sorted({'torch', 'numpy', 'diffusers', "
        "'transformers', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages_own():
    assert run("--version").stdout == f"dianjing {dianjing.__version__}\n"


def test_a_picture_is_written_with_what_made_it(stub, monkeypatch, capsys):
    code, out, _ = call(
        monkeypatch, capsys, "image", "一只小猫", "--seed", "7", "--out", "cat.png", "--steps", "20", "--size", "64x32"
    )
    assert code == 0
    assert out == "cat.png\n"
    record = read_image_metadata("cat.png")
    assert (record.prompt, record.seed, record.model) == ("一只小猫", 7, "sticker")
    assert record.settings["width"] == 64
    assert record.settings["height"] == 32
    assert record.settings["num_inference_steps"] == 20
    assert record.settings["guidance_scale"] == 4.5
    assert record.version == dianjing.__version__


def test_settings_left_out_are_left_to_the_model(stub, monkeypatch, capsys):
    call(monkeypatch, capsys, "image", "cat")
    assert stub.calls == [{"prompt": "cat", "count": 1}]


def test_json_on_stdout_tells_ids_paths_and_settings(stub, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "image", "cat", "--seed", "3", "--json")
    (picture,) = json.loads(out)["images"]
    assert code == 0
    assert picture["seed"] == 3
    assert picture["path"] == "dianjing-3.png"
    assert len(picture["id"]) == 32
    assert picture["settings"]["num_inference_steps"] == 20
    assert picture["unknown_words"] == []


def test_json_names_the_words_that_the_model_does_not_know(stub, monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "image", "a zyzzyva", "--json")
    assert json.loads(out)["images"][0]["unknown_words"] == ["zyzzyva"]


def test_each_picture_of_a_count_is_drawn_from_its_own_seed(stub, monkeypatch, capsys):
    call(monkeypatch, capsys, "image", "cat", "--seed", "5", "--count", "3", "--out", "a.png")
    call(monkeypatch, capsys, "image", "cat", "--seed", "7", "--out", "b.png")
    assert [read_image_metadata(f"a-{i}.png").seed for i in (1, 2, 3)] == [5, 6, 7]
    assert Image.open("a-3.png").tobytes() == Image.open("b.png").tobytes()
    assert Image.open("a-2.png").tobytes() != Image.open("b.png").tobytes()


def test_a_grid_shows_every_picture_in_its_place(stub, monkeypatch, capsys):
    prompts = ("cat", "dog", "bird")
    code, out, _ = call(
        monkeypatch, capsys, "image", *prompts, "--count", "2", "--seed", "1", "--out", "a.png", "--grid", "all.png"
    )
    assert code == 0
    assert out.splitlines()[-1] == "all.png"
    record = read_image_metadata("all.png")
    assert record.prompt.splitlines() == list(prompts)
    grid, third = Image.open("all.png"), Image.open("a-3.png")
    scale = -(-128 // third.width)
    size = (third.width * scale, third.height * scale)
    assert grid.size == (2 * size[0] + 4, 3 * size[1] + 8)  # a row for each prompt
    second_row = grid.crop((0, size[1] + 4, size[0], 2 * size[1] + 4))
    assert second_row.tobytes() == third.resize(size, Image.Resampling.BICUBIC).tobytes()


def test_more_pictures_than_a_batch_are_all_written(stub, monkeypatch, capsys):
    call(monkeypatch, capsys, "image", "cat", "dog", "--seed", "0", "--count", "11", "--out", "a.png")
    records = [read_image_metadata(f"a-{i}.png") for i in range(1, 23)]
    assert [record.seed for record in records] == [*range(11), *range(11)]
    assert [record.prompt for record in records] == ["cat"] * 11 + ["dog"] * 11
    assert max(call["count"] for call in stub.calls) <= image_job.IMAGE_BATCH_SIZE


def test_a_name_of_our_own_never_hits_an_existing_file(stub, monkeypatch, capsys):
    Path("dianjing-3.png").write_bytes(b"mine")
    _, out, _ = call(monkeypatch, capsys, "image", "cat", "--seed", "3")
    assert out == "dianjing-3-1.png\n"
    assert Path("dianjing-3.png").read_bytes() == b"mine"


def test_a_folder_as_out_receives_the_pictures(stub, monkeypatch, capsys):
    Path("shelf").mkdir()
    _, out, _ = call(monkeypatch, capsys, "image", "cat", "--seed", "3", "--count", "2", "--out", "shelf")
    assert out.split() == ["shelf/dianjing-3-1.png", "shelf/dianjing-3-2.png"]


def test_a_seed_left_out_is_drawn_by_lot_and_reported(stub, monkeypatch, capsys):
    seeds = set()
    for _ in range(2):
        _, out, _ = call(monkeypatch, capsys, "image", "cat", "--json")
        seeds.add(json.loads(out)["images"][0]["seed"])
    assert len(seeds) == 2


@pytest.mark.parametrize(("option", "labelled"), [([], True), (["--label"], True), (["--no-label"], False)])
def test_the_label_is_there_unless_switched_off(stub, monkeypatch, capsys, option, labelled):
    call(monkeypatch, capsys, "image", "cat", "--out", "a.png", *option)
    assert (XMP_KEY in Image.open("a.png").text) == labelled


def test_the_label_names_the_producer_that_was_given(stub, monkeypatch, capsys):
    call(monkeypatch, capsys, "image", "cat", "--out", "a.png", "--producer", "某社")
    assert '"ContentProducer":"某社"' in Image.open("a.png").text[XMP_KEY]


BAD_INPUT = [
    (["image"], "PROMPT"),
    (["image", ""], "prompt is empty"),
    (["image", "cat", ""], "prompt is empty"),
    (["image", "cat\udcff"], "surrogate"),
    (["image", "猫" * 5000], "at most 4,096"),
    (["image", "cat", "--size", "0"], "width is 0"),
    (["image", "cat", "--size", "-1"], "width is -1"),
    (["image", "cat", "--size", "1000000000"], "width is 1000000000"),
    (["image", "cat", "--size", "100x64"], "try 96 or 112"),
    (["image", "cat", "--size", "64x"], "WIDTHxHEIGHT"),
    (["image", "cat", "--size", "big"], "WIDTHxHEIGHT"),
    (["image", "cat", "--steps", "0"], "num_inference_steps is 0"),
    (["image", "cat", "--steps", "NaN"], "--steps"),
    (["image", "cat", "--steps", '"20"'], "--steps"),
    (["image", "cat", "--guidance-scale", "inf"], "guidance_scale is inf"),
    (["image", "cat", "--guidance-scale", "nan"], "guidance_scale is nan"),
    (["image", "cat", "--count", "1000000"], "num_images_per_prompt is 1000000"),
    (["image", "cat", "--count", "0"], "num_images_per_prompt is 0"),
    (["image", "cat", "--seed", "-1"], "seed is -1"),
    (["image", "cat", "--seed", str(2**64)], "seed is"),
    (["image", "cat", "--negative-prompt", "a\x01"], "negative_prompt holds the control character"),
    (["image", "cat", "--device", "tpu"], "--device is 'tpu'"),
    (["image", "cat", "--dtype", "int4"], "--dtype"),
    (["image", "cat", "--out", "none/cat.png"], "does not exist"),
    (["image", "cat", "--out", "cat.jpg"], r"does not end in .png"),
    (["image", "cat", "--grid", "all.jpg"], r"does not end in .png"),
    (["image", "cat", "--out", "cat.png", "--grid", "cat.png"], "also the file of a picture"),
    (["paint"], "paint"),
    (["image", "cat", "--colour", "red"], "--colour"),
]


@pytest.mark.parametrize(("arguments", "reason"), BAD_INPUT)
def test_bad_input_ends_with_2_and_a_reason_and_writes_nothing(stub, monkeypatch, capsys, arguments, reason):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert reason in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path().iterdir()) == []
    assert stub.calls == []


def test_bad_input_is_refused_before_torch_loads(tmp_path):
    code = (
        "import sys; from dianjing.cli.app import main; sys.argv = ['dianjing', 'image', 'cat', '--size', '100']\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["2", "False"]


@pytest.mark.parametrize("content", ["empty", "no weights"])
def test_a_folder_that_is_no_model_is_refused(tmp_path, content):
    if content == "no weights":
        index = {"_class_name": "TextToImagePipeline", "transformer": ["diffusers", "HunyuanDiT2DModel"]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    done = run("image", "cat", "--model", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_misspelt_model_brings_the_nearest_name(tmp_path):
    done = run("image", "cat", "--model", "stiker", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'sticker'" in done.stderr


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "a.png"), 1, "the disk is full while a.png is written"),
        (RuntimeError("broken"), 1, "a fault of Dianjing, not of what was given (RuntimeError: broken)"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
            1,
            "the device is out of memory; ask for a smaller size",
        ),
    ],
)
def test_a_failure_has_its_exit_code_and_no_traceback(stub, monkeypatch, capsys, error, code, text):
    monkeypatch.setattr(image_job, "generate_images", fail_with(error))
    stopped, out, err = call(monkeypatch, capsys, "image", "cat")
    assert stopped == code
    assert text in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path().iterdir()) == []


def test_a_failure_is_told_in_the_users_language(stub, monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setattr(image_job, "generate_images", fail_with(MemoryError()))
    code, _, err = call(monkeypatch, capsys, "image", "cat")
    assert code == 1
    assert err.startswith("error: 设备内存不足")


def test_debug_shows_the_traceback(stub, monkeypatch, capsys):
    monkeypatch.setattr(image_job, "generate_images", fail_with(RuntimeError("broken")))
    _, _, err = call(monkeypatch, capsys, "image", "cat", "--debug")
    assert "Traceback" in err


def test_pictures_done_before_a_failure_stay_on_disk(stub, monkeypatch, capsys):
    whole = image_job.generate_images

    def fail_later(pipe, request, seeds):
        if request.prompt == "dog":
            raise KeyboardInterrupt
        return whole(pipe, request, seeds)

    monkeypatch.setattr(image_job, "generate_images", fail_later)
    code, _, _ = call(monkeypatch, capsys, "image", "cat", "dog", "--out", "a.png")
    assert code == 130
    assert [path.name for path in Path().iterdir()] == ["a-1.png"]


def test_json_keeps_chinese_readable_and_escapes_broken_file_names():
    code = "from dianjing.cli.options import print_json; print_json(['\\u5c0f\\u732b', 'x\\udcff'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert "小猫" in done.stdout.decode("utf-8")
    assert json.loads(done.stdout) == ["小猫", "x\udcff"]


def test_models_lists_every_entry_with_its_licence():
    rows = json.loads(run("models", "--json").stdout)
    assert rows[0]["name"] == "sticker"
    assert all(row["licence"] for row in rows)
    table = run("models").stdout
    assert all(row["name"] in table for row in rows)


def test_train_without_a_recipe_is_a_usage_error():
    assert run("train").returncode == 2


def test_train_hands_its_options_to_the_trainer(monkeypatch, capsys):
    import dianjing.train.cli as trainer

    calls = []
    monkeypatch.setattr(trainer, "run_train_command", lambda *args, **options: calls.append((args, options)) or 75)
    code, _, _ = call(monkeypatch, capsys, "train", "a.toml", "--set", "run.seed=1", "--resume", "none", "--dry-run")
    assert code == 75
    options = {"overrides": ["run.seed=1"], "resume": "none", "init": False, "dry_run": True, "cache_only": False}
    assert calls == [((["a.toml"],), {**options, "sigma": None})]


def test_train_and_the_trainers_own_command_take_the_same_options():
    from dianjing.cli.app import app as cli
    from dianjing.train.cli import _make_parser

    train = typer.main.get_command(cli).commands["train"]
    own = {option for action in _make_parser()._actions for option in action.option_strings} - {"-h"}
    assert own == {option for parameter in train.params for option in parameter.opts} - {"arguments", "--debug"} | {
        "--help"
    }


def test_bench_outside_a_checkout_says_where_it_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dianjing, "__file__", str(tmp_path / "dianjing" / "__init__.py"))
    code, _, err = call(monkeypatch, capsys, "bench")
    assert code == 2
    assert "from a checkout" in err
