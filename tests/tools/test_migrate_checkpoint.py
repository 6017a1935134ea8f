"""A run that began before the renaming continues after it, bit for bit."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
OLD_COMMIT = "6a3a1e8"  # the last one before the renaming
RUNS = {"film": "train-film", "segmenter": "train-segmenter", "lora": "train-lora"}  # and their golden files
MAKE_OLD_RUNS = """
import sys
from itertools import count
from pathlib import Path
from tests.golden.machine import settled
from tests.golden.trainings import STEPS_BEFORE_STOP, run

root = Path(sys.argv[1])
with settled():
    run(root, "pictures")
    for name in sys.argv[2:]:
        steps = count(1)
        run(root, name, wants_stop=lambda: next(steps) == STEPS_BEFORE_STOP)
"""


def load_tool():
    spec = importlib.util.spec_from_file_location("migrate_checkpoint", ROOT / "tools" / "migrate_checkpoint.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


tool = load_tool()


def test_the_map_is_one_to_one_and_that_of_the_bundle():
    lines = (ROOT / "tools" / "rename" / "dit.map").read_text(encoding="utf-8")
    committed = {old.rstrip("."): new.rstrip(".") for old, new in re.findall(r"^tensor (\S+) -> (\S+)$", lines, re.M)}
    assert {**committed, "network": "unet"} == tool.TENSOR_NAMES
    assert len(set(tool.TENSOR_NAMES.values())) == len(tool.TENSOR_NAMES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("click.region", "motion_conditioner.region_embed"),
        ("transformer.click.strength.weight", "transformer.motion_conditioner.strength_embed.weight"),
        (
            "transformer.click.strength_of_region.weight/exp_avg",
            "transformer.motion_conditioner.phrase_strength_embed.weight/exp_avg",
        ),
        ("transformer.click.taking_over.certain/step", "transformer.motion_conditioner.warp_guidance.class_gate/step"),
        ("network.conv_in.weight/exp_avg_sq", "unet.conv_in.weight/exp_avg_sq"),
        ("transformer.blocks.0.attn1.to_q.weight", "transformer.blocks.0.attn1.to_q.weight"),
        ("transformer.motion_blocks.0.norm1.weight", "transformer.motion_blocks.0.norm1.weight"),
        ("/0/k", "/0/k"),
    ],
)
def test_names_change_as_the_map_says_and_others_stay(old, new):
    assert tool.rename_tensor(old) == new


@pytest.fixture(scope="module")
def old_root(tmp_path_factory):
    """Runs of the code before the renaming, stopped after two steps."""
    exported = subprocess.run(["git", "archive", OLD_COMMIT], cwd=ROOT, capture_output=True)
    if exported.returncode:
        pytest.skip(f"commit {OLD_COMMIT} is not in this clone")
    code, root = tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-x", "-C", str(code)], input=exported.stdout, check=True)
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAKE_OLD_RUNS, str(root), *RUNS]
    subprocess.run(command, cwd=code, env=environment, check=True, timeout=280)
    return root


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_began_before_the_renaming_ends_as_it_would_have(old_root, tmp_path_factory, name):
    from tests.golden.cases import MADE
    from tests.golden.machine import settled
    from tests.golden.results import differences, load
    from tests.golden.test_golden import is_same_machine
    from tests.golden.trainings import _adapter, _diffusion, run, segmenter

    root = tmp_path_factory.mktemp("new")
    for folder in ("autoencoder", "pictures", name):
        tool.migrate_run(old_root / folder, root / folder)
    (checkpoint,) = (root / name / "checkpoints").iterdir()
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 2
    steps = count()
    with settled():
        run(root, name, wants_stop=lambda: next(steps) < 0)
        results = {"film": _diffusion, "lora": _adapter, "segmenter": lambda _: segmenter(root)}[name](root / name)
    golden = load(MADE / f"{RUNS[name]}.npz")
    exact = is_same_machine()
    assert not differences(results, golden, exact=exact, tolerance=1e-3)
    assert next(steps) == len(golden["losses"]) - 2  # the first two steps were not made again


def test_tensors_of_checkpoints_are_equal_under_their_new_names(old_root, tmp_path):
    tool.migrate_run(old_root / "film", tmp_path / "film")
    (old,), (new,) = (sorted((root / "film" / "checkpoints").iterdir()) for root in (old_root, tmp_path))
    files = sorted(path.name for path in old.glob("*.safetensors"))
    assert files == sorted(path.name for path in new.glob("*.safetensors"))
    num_renamed = 0
    for name in files:
        before, after = load_file(old / name), load_file(new / name)
        assert {tool.rename_tensor(key) for key in before} == set(after)
        num_renamed += len(before.keys() - after.keys())
        for key, tensor in before.items():
            assert tensor.numpy().tobytes() == after[tool.rename_tensor(key)].numpy().tobytes(), key
    assert num_renamed > 28


def test_a_transformer_that_was_exported_before_loads_with_all_its_weights(old_root, tmp_path):
    from dianjing import DiT

    tool.migrate_run(old_root / "pictures", tmp_path / "pictures")
    folder = tmp_path / "pictures" / "export" / "transformer"
    assert "motion_span" not in json.loads((folder / "config.json").read_text())
    _, info = DiT.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with safe_open(folder / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_target_that_exists_is_left_as_it_is(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").write_text(name)
    with pytest.raises(FileExistsError):
        tool.migrate_run(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / "mark").read_text() == "new"
