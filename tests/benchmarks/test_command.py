"""The command: what it refuses, and one run from the command line to the tables and the JSON."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dianjing
from benchmarks import command, model_sizes
from benchmarks.comparison import ImplementationNames, ImplementationResult, compare_results, find_fastest
from benchmarks.report import format_markdown_table, format_plain_table
from benchmarks.timing import compute_quantiles
from dianjing.cli import app


def test_the_command_is_imported_without_changing_the_import_path(tmp_path):
    code = (
        "import sys; before = list(sys.path); from dianjing.cli.bench import import_benchmark_command\n"
        "command = import_benchmark_command(); print(sys.path == before, command.__file__)"
    )
    root = Path(dianjing.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "dianjing").symlink_to(root / "dianjing")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", str(root / "benchmarks" / "command.py")], done.stderr


def call(monkeypatch, capsys, *arguments):
    """Run `dianjing bench` in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["dianjing", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--models", "huge"], "sticker,medium,wide"),
        (["--models", ""], "sticker,medium,wide"),
        (["--models", "medium,,wide"], "sticker,medium,wide"),
        (["--pairs", "4"], "from 5 to 1000"),
        (["--pairs", "-1"], "from 5 to 1000"),
        (["--pairs", "1000000"], "from 5 to 1000"),
        (["--pairs", "many"], "pairs"),
        (["--dtype", "int8"], "bfloat16, float16, float32"),
        (["--device", "abacus"], "give cpu"),
        (["--json", "no/such/folder/bench.json"], "does not exist"),
        (["--json", "."], "give a file"),
        (["--speed"], "--speed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_benchmarks", None)  # calling it would be an error of another kind
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert complaint in err
    assert not out


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"install g\+\+"):
        command.check_settings(pairs=5, dtype="bfloat16", device="cpu", with_compile=True)


@pytest.fixture
def bundle(monkeypatch, make_hunyuan, tmp_path):
    """A tiny folder in the place of the embedded bundle, and small sizes in the place of the large ones."""
    folder = tmp_path / "bundle"
    make_hunyuan().save_pretrained(folder)
    monkeypatch.setattr(model_sizes, "find_sticker_bundle", lambda: folder)
    monkeypatch.setattr(command, "find_sticker_bundle", lambda: folder)
    small = dataclasses.replace(model_sizes.make_sticker_size(), num_inference_steps=3, min_pairs=5)
    monkeypatch.setitem(command.MODEL_SIZES, "sticker", lambda: small)
    return folder


def test_one_small_run_from_the_command_line_to_the_json(monkeypatch, capsys, tmp_path, bundle, tiny):
    monkeypatch.setitem(command.MODEL_SIZES, "medium", lambda: tiny)
    path = tmp_path / "bench.json"
    code, out, err = call(monkeypatch, capsys, "--models", "sticker,medium", "--markdown", "--json", path)
    assert code == 0, err
    assert "| sticker | bfloat16 | bfloat16" in out
    assert "| tiny | float32 | bfloat16" in out
    assert "trained weights" in out

    found = json.loads(path.read_text(encoding="utf-8"))
    assert [size["name"] for size in found["sizes"]] == ["sticker", "tiny"]
    assert found["settings"] == {"pairs": 5, "dtype": "bfloat16", "device": "cpu", "compile": False}
    assert {"processor", "threads", "torch", "diffusers"} <= found["machine"].keys()
    for size in found["sizes"]:
        assert size["float32_max_difference"] <= 1e-4
        assert {len(result["seconds"]) for result in size["results"].values()} == {size["pairs"]}
        assert size["results"]["diffusers float32"]["final_l2"] == 0
        for name in ("diffusers bfloat16", "dianjing bfloat16"):
            assert 0 < size["results"][name]["final_l2"] < 0.5
    assert found["images"]["ratios"].keys() == {"text", "denoise", "vae", "all"}


def result(median_s, *, prepare_s=0.0):
    return ImplementationResult(
        step_s=compute_quantiles([median_s]),
        seconds=[median_s],
        first_call_s=0.0,
        precompute_s=prepare_s,
        forward_max_difference=0.0,
        forward_l2=0.0,
        final_l2=0.0,
    )


def test_like_is_compared_with_like():
    names = ImplementationNames(dtype="bfloat16")
    results = {
        names.reference: result(9.0),
        names.diffusers: result(4.0),
        names.diffusers_fused: result(5.0),
        names.diffusers_compiled: result(3.0),
        names.dianjing: result(1.0, prepare_s=20.0),
        names.dianjing_compiled: result(1.5),
    }
    assert find_fastest(results, names) == (names.diffusers_compiled, names.dianjing)
    found = {(each.diffusers, each.dianjing): each.ratio.median for each in compare_results(results, names)}
    assert found == {
        (names.reference, names.dianjing): 4.5,  # our one-off second for each of 20 steps is in it
        (names.diffusers, names.dianjing): 2.0,
        (names.diffusers_fused, names.dianjing): 2.5,
        (names.diffusers_compiled, names.dianjing_compiled): 2.0,
        (names.diffusers_compiled, names.dianjing): 1.5,
    }


def test_float32_has_no_peer_twice():
    names = ImplementationNames(dtype="float32")
    results = {names.reference: result(2.0), names.diffusers_fused: result(3.0), names.dianjing: result(1.0)}
    assert [each.diffusers for each in compare_results(results, names)] == [names.reference, names.diffusers_fused]


def test_tables_hold_every_cell():
    head, rows = ["a", "bc"], [["1", "2"], ["333", ""]]
    assert format_markdown_table(head, rows).splitlines() == ["| a | bc |", "| --- | --- |", "| 1 | 2 |", "| 333 |  |"]
    assert format_plain_table(head, rows).splitlines() == ["a    bc", "---  --", "1    2", "333"]
