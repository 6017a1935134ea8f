"""The command: what it refuses, and one run from the command line to the tables and the JSON."""

import dataclasses
import json
import sys

import pytest

from benchmarks import command, sizes
from benchmarks.measure import Names, Result, compare, fastest
from benchmarks.report import markdown_table, plain_table
from benchmarks.timing import spread
from dianjing import cli


def call(monkeypatch, capsys, *arguments):
    """Run `dianjing bench` in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["dianjing", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--models", "huge"], "sticker,middle,wide"),
        (["--models", ""], "sticker,middle,wide"),
        (["--models", "middle,,wide"], "sticker,middle,wide"),
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
    monkeypatch.setattr(command, "run", None)  # calling it would be an error of another kind
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
    monkeypatch.setattr(sizes, "sticker_folder", lambda: folder)
    monkeypatch.setattr(command, "sticker_folder", lambda: folder)
    small = dataclasses.replace(sizes.sticker(), steps=3, min_pairs=5)
    monkeypatch.setitem(command.SIZES, "sticker", lambda: small)
    return folder


def test_one_small_run_from_the_command_line_to_the_json(monkeypatch, capsys, tmp_path, bundle, tiny):
    monkeypatch.setitem(command.SIZES, "middle", lambda: tiny)
    path = tmp_path / "bench.json"
    code, out, err = call(monkeypatch, capsys, "--models", "sticker,middle", "--markdown", "--json", path)
    assert code == 0, err
    assert "| sticker | bfloat16 | bfloat16" in out
    assert "| tiny | float32 | bfloat16" in out
    assert "trained weights" in out

    found = json.loads(path.read_text(encoding="utf-8"))
    assert [size["name"] for size in found["sizes"]] == ["sticker", "tiny"]
    assert found["settings"] == {"pairs": 5, "dtype": "bfloat16", "device": "cpu", "compile": False}
    assert {"processor", "threads", "torch", "diffusers"} <= found["machine"].keys()
    for size in found["sizes"]:
        assert size["float32_max_abs"] <= 1e-4
        assert {len(result["seconds"]) for result in size["results"].values()} == {size["pairs"]}
        assert size["results"]["diffusers float32"]["final_l2"] == 0
        for name in ("diffusers bfloat16", "dianjing bfloat16"):
            assert 0 < size["results"][name]["final_l2"] < 0.5
    assert found["pictures"]["ratios"].keys() == {"text", "denoise", "vae", "all"}


def result(median_s, *, prepare_s=0.0):
    return Result(
        step_s=spread([median_s]), seconds=[median_s], first_call_s=0.0, prepare_s=prepare_s, forward_max_abs=0.0,
        forward_l2=0.0, final_l2=0.0,
    )  # fmt: skip


def test_like_is_compared_with_like():
    names = Names(dtype="bfloat16")
    results = {
        names.reference: result(9.0),
        names.stock: result(4.0),
        names.fused: result(5.0),
        names.compiled: result(3.0),
        names.ours: result(1.0, prepare_s=20.0),
        names.ours_compiled: result(1.5),
    }
    assert fastest(results, names) == (names.compiled, names.ours)
    found = {(each.theirs, each.ours): each.ratio.median for each in compare(results, names)}
    assert found == {
        (names.reference, names.ours): 4.5,  # our one-off second for each of 20 steps is in it
        (names.stock, names.ours): 2.0,
        (names.fused, names.ours): 2.5,
        (names.compiled, names.ours_compiled): 2.0,
        (names.compiled, names.ours): 1.5,
    }


def test_float32_has_no_peer_twice():
    names = Names(dtype="float32")
    results = {names.reference: result(2.0), names.fused: result(3.0), names.ours: result(1.0)}
    assert [each.theirs for each in compare(results, names)] == [names.reference, names.fused]


def test_tables_hold_every_cell():
    head, rows = ["a", "bc"], [["1", "2"], ["333", ""]]
    assert markdown_table(head, rows).splitlines() == ["| a | bc |", "| --- | --- |", "| 1 | 2 |", "| 333 |  |"]
    assert plain_table(head, rows).splitlines() == ["a    bc", "---  --", "1    2", "333"]
