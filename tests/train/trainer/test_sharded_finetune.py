"""Fine-tuning with weights sharded over two processes: results and checkpoints are those of one process."""

import json
import shutil

import pytest

from dianjing.train.run import train_model
from tests.train.ranks import assert_close, run_ranks
from tests.train.tiny import UNINTERRUPTED, load_newest_tensors

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("recipe", ["fsdp2", "deepspeed"])
@pytest.mark.parametrize("trainable", ["lora", "all"])
def test_two_sharded_processes_equal_one_and_one_can_resume(tmp_path, finetune_config, trainable, recipe):
    # with a tiny eps, Adam makes full steps from gradients that are rounding errors
    changes = {"model": {"trainable": trainable}, "optimizer": {"eps": 1e-3}}
    runs = {name: finetune_config(tmp_path / name, changes=changes) for name in ("one", "two")}
    train_model(runs["one"], **UNINTERRUPTED)
    ranks = run_ranks({"config": json.loads(runs["two"].model_dump_json())}, recipe=recipe)
    assert [code for code, _ in ranks] == [0, 0], ranks
    one, two = (load_newest_tensors(config.run.folder) for config in runs.values())
    assert_close(one, two)
    exported = [config.run.folder / "export" for config in runs.values()]
    assert len({tuple(sorted(p.name for p in folder.rglob("*"))) for folder in exported}) == 1
    for kind in ("metrics.jsonl", "losses.png", "samples/step-00000006.png"):
        assert (runs["two"].run.folder / kind).is_file()

    shutil.rmtree(runs["two"].run.folder / "checkpoints" / "step-00000006")
    train_model(runs["two"], **UNINTERRUPTED)
    assert_close(one, load_newest_tensors(tmp_path / "two"))
