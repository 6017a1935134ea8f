"""Several processes compute what one does, and any number of processes can resume their checkpoints."""

import ast
import json
import sys
from pathlib import Path

import pytest
from accelerate.commands.config import load_config_from_file

from dianjing.train.config.run_file import parse_run_config
from dianjing.train.run import train_model
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from tests.train.ranks import RECIPES, assert_close, run_ranks
from tests.train.tiny import TinySource, load_newest_tensors, make_autoencoder_config, make_trainer, never

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("recipe", ["ddp", "deepspeed"])
def test_two_processes_equal_one_and_either_number_can_resume(tmp_path, recipe):
    run = {"gradient_accumulation_steps": 2, "batch_size": 8}
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path / "one", **run))
    trainer.train(batches(), should_stop=never)
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path / "two", **run))
    trainer.train(batches(), should_stop=lambda: trainer.step == 2)
    for last in (4, 5):
        ranks = run_ranks({"folder": str(tmp_path / "two"), "last": last, "run": run}, recipe=recipe)
        assert [code for code, _ in ranks] == [0, 0], ranks
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path / "two", **run))
    trainer.load(find_newest_checkpoint(tmp_path / "two" / "checkpoints")[0])
    assert trainer.step == 5
    trainer.train(batches(), should_stop=never)
    assert_close(load_newest_tensors(tmp_path / "one"), load_newest_tensors(tmp_path / "two"))


@pytest.mark.parametrize("recipe", ["ddp", "deepspeed"])
def test_non_finite_gradient_on_one_rank_stops_all_before_the_step_and_names_the_samples(tmp_path, recipe):
    job = {"folder": str(tmp_path), "last": 6, "poisoned_rank": 1, "poison_step": 4}
    ranks = run_ranks(job, recipe=recipe)
    for code, message in ranks:
        assert code == 1
        assert (
            "NonFiniteGradientError: the gradient of step 4 is not finite (seed 7, image samples 16 to 19)" in message
        )
    assert find_newest_checkpoint(tmp_path / "checkpoints")[0].step == 3
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_accelerate_reads_every_launch_file_and_uses_all_devices(recipe):
    config = load_config_from_file(str(RECIPES / f"{recipe}.yaml"))
    assert config.num_processes == -1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1, .* FSDP2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "stage 3, .* FSDP2"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "offloading, .* FSDP2",
        ),
    ],
    ids=str,
)
def test_sharding_that_cannot_be_checkpointed_is_refused_before_loading(tmp_path, monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        train_model(make_autoencoder_config(tmp_path / "run"), TinySource(), resume="auto", should_stop=never)
    assert not (tmp_path / "run").exists()


def test_deepspeed_is_refused_if_steps_leave_weights_unused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    tree = make_autoencoder_config(tmp_path / "run").model_dump()
    tree["data"]["buckets"] = [{"kind": "image"}, {"kind": "clip", "num_frames": 2}]
    with pytest.raises(ValueError, match="several kinds of sample"):
        train_model(parse_run_config(tree), TinySource(), resume="auto", should_stop=never)


def test_deepspeed_is_used_without_private_attributes():
    tree = ast.parse(Path(distributed.__file__).read_text(encoding="utf-8"))
    private = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    assert private == set()


def test_missing_deepspeed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match=r"dianjing\[deepspeed\]"):
        train_model(make_autoencoder_config(tmp_path / "run"), TinySource(), resume="auto", should_stop=never)
