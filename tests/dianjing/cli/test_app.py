"""The command line: start time, errors and exit codes, and `dianjing image` with a stub pipeline."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

import dianjing
from dianjing.cli import image_job
from dianjing.errors import DianjingError


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "dianjing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):
        start_s = time.monotonic()
        assert run("--help").returncode == 0
        seconds.append(time.monotonic() - start_s)
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


BAD_INPUT = [
    (["image"], "PROMPT"),
    (["image", ""], "prompt is empty"),
    (["image", "cat", ""], "prompt is empty"),
    (["image", "cat\udcff"], "surrogate"),
    (["image", "猫" * 5000], "at most 4,096"),
    (["image", "cat", "--size", "0"], "width is 0"),
    (["image", "cat", "--size", "-1"], "width is -1"),
    (["image", "cat", "--size", "1000000000"], "width is 1000000000"),
    (["image", "cat", "--size", "100x64"], "the nearest that are: 96, 112"),
    (["image", "cat", "--size", "64x"], "such as 128x96"),
    (["image", "cat", "--size", "big"], "such as 128x96"),
    (["image", "cat", "--steps", "0"], "num_inference_steps is 0"),
    (["image", "cat", "--steps", "NaN"], "--steps"),
    (["image", "cat", "--steps", '"20"'], "--steps"),
    (["image", "cat", "--guidance-scale", "inf"], "guidance_scale is inf"),
    (["image", "cat", "--guidance-scale", "nan"], "guidance_scale is nan"),
    (["image", "cat", "--count", "1000000"], "num_images_per_prompt is 1000000"),
    (["image", "cat", "--count", "0"], "num_images_per_prompt is 0"),
    (["image", "cat", "--seed", "-1"], "seed is -1"),
    (["image", "cat", "--seed", str(2**64)], "seed is"),
    (["image", "cat", "--negative-prompt", "a\x01"], "negative_prompt contains the control character"),
    (["image", "cat", "--device", "tpu"], "--device is 'tpu'"),
    (["image", "cat", "--dtype", "int4"], "--dtype"),
    (["image", "cat", "--out", "none/cat.png"], "does not exist"),
    (["image", "cat", "--out", "cat.jpg"], r"does not end in .png"),
    (["image", "cat", "--grid", "all.jpg"], r"does not end in .png"),
    (["image", "cat", "--out", "cat.png", "--grid", "cat.png"], "also the file of an image"),
    (["paint"], "paint"),
    (["image", "cat", "--colour", "red"], "--colour"),
]


@pytest.mark.parametrize(("arguments", "reason"), BAD_INPUT)
def test_bad_input_ends_with_2_and_a_reason_and_writes_nothing(stub, call, arguments, reason):
    code, out, err = call(*arguments)
    assert code == 2
    assert reason in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path().iterdir()) == []
    assert stub.calls == []


def test_bad_input_is_refused_before_torch_loads(tmp_path):
    code = (
        "import sys; from dianjing.cli.app import main; sys.argv = ['dianjing', 'image', 'cat', '--size', '112']\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["2", "False"]


@pytest.mark.parametrize("content", ["empty", "no weights"])
def test_a_folder_without_a_model_is_refused(tmp_path, content):
    if content == "no weights":
        index = {"_class_name": "TextToImagePipeline", "transformer": ["diffusers", "HunyuanDiT2DModel"]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    done = run("image", "cat", "--model", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_misspelt_model_suggests_the_nearest_name(tmp_path):
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
        (ValueError("zip() argument 2 is shorter"), 1, "a fault of Dianjing, not of what was given (ValueError: zip()"),
        (OSError(22, "Invalid argument"), 1, "a fault of Dianjing"),
        (DianjingError("chat_greeting"), 2, "Describe an image"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
            1,
            "the device is out of memory; ask for a smaller size",
        ),
    ],
)
def test_a_failure_has_its_exit_code_and_no_traceback(stub, call, monkeypatch, error, code, text):
    monkeypatch.setattr(image_job, "generate_images", fail_with(error))
    stopped, out, err = call("image", "cat")
    assert stopped == code
    assert text in err
    assert "Traceback" not in err
    assert out == ""
    assert list(Path().iterdir()) == []


def test_a_failure_is_reported_in_the_users_language(stub, call, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setattr(image_job, "generate_images", fail_with(MemoryError()))
    code, _, err = call("image", "cat")
    assert code == 1
    assert err.startswith("错误：内存（或显存）不足")


def test_debug_shows_the_traceback(stub, call, monkeypatch):
    monkeypatch.setattr(image_job, "generate_images", fail_with(RuntimeError("broken")))
    _, _, err = call("image", "cat", "--debug")
    assert "Traceback" in err


def test_images_written_before_a_failure_stay_on_disk(stub, call, monkeypatch):
    original = image_job.generate_images

    def fail_later(pipe, request, seeds, **options):
        if request.prompt == "dog":
            raise KeyboardInterrupt
        return original(pipe, request, seeds, **options)

    monkeypatch.setattr(image_job, "generate_images", fail_later)
    code, _, _ = call("image", "cat", "dog", "--out", "a.png")
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


def test_train_without_a_run_file_is_a_usage_error():
    assert run("train").returncode == 2


def test_train_passes_its_options_to_the_trainer(call, monkeypatch):
    import dianjing.train.cli as trainer

    calls = []
    monkeypatch.setattr(trainer, "run_train_command", lambda *args, **options: calls.append((args, options)) or 75)
    code, _, _ = call("train", "a.toml", "--set", "run.seed=1", "--resume", "none", "--dry-run")
    assert code == 75
    options = {"overrides": ["run.seed=1"], "resume": "none", "init": False, "dry_run": True, "cache_only": False}
    assert calls == [((["a.toml"],), {**options, "source": None, "sigma": None})]


def test_train_and_the_trainers_own_command_take_the_same_options():
    from dianjing.cli.app import app as cli
    from dianjing.train.cli import _make_parser

    train = typer.main.get_command(cli).commands["train"]
    own = {option for action in _make_parser()._actions for option in action.option_strings} - {"-h"}
    assert own == {option for parameter in train.params for option in parameter.opts} - {"arguments", "--debug"} | {
        "--help"
    }


def test_bench_outside_a_checkout_says_where_it_runs(call, monkeypatch, tmp_path):
    monkeypatch.setattr(dianjing, "__file__", str(tmp_path / "dianjing" / "__init__.py"))
    code, _, err = call("bench")
    assert code == 2
    assert "from a checkout" in err
