"""Several runs and processes that fill one cache."""

import dataclasses

import pytest
import torch

from dianjing.errors import DianjingError
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES, Shard
from dianjing.train.data.tensor_cache import TensorCache
from tests.processes import start_process
from tests.train.finetuning import build_setup
from tests.train.processes import exit_after_training


def test_two_runs_fill_one_cache_side_by_side(tmp_path, model, datasets_file, finetune_config):
    settings = {"folder": tmp_path, "name": model, "datasets_file": datasets_file, "cache": tmp_path / "both"}
    (tmp_path / "run.toml").write_text(
        """
task = "finetune"
[run]
folder = "{folder}/run"
total_steps = 1
batch_size = 1
[data]
datasets_file = "{datasets_file}"
size_px = 16
cache_folder = "{cache}"
[optimizer]
learning_rate = 1e-3
[model]
name = "{name}"
""".format(**settings)
    )
    arguments = [str(tmp_path / "run.toml"), "--cache-only", "--set"]
    runs = [start_process(exit_after_training, [*arguments, f"run.folder={tmp_path / name}"]) for name in ("a", "b")]
    for run in runs:
        run.join(200)
    assert [run.exitcode for run in runs] == [0, 0]
    build_setup(finetune_config(tmp_path / "alone", changes={"samples": {"prompts": []}}))
    both, alone = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (tmp_path / "both", tmp_path / "cache")
    )
    assert both == alone
    assert not list((tmp_path / "both").rglob("*.part"))


def test_shards_filled_one_after_the_other_leave_nothing_out(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "alone"))
    texts = ["", "小猫", "a balloon", "气球", "a cat"]
    cache = TensorCache(tmp_path / "shared")
    shared = dataclasses.replace(setup.batches.latent_cache, cache=cache)
    for rank in range(2):
        arguments = {"shard": Shard(rank=rank, num_processes=2), "device": torch.device("cpu")}
        shared.fill_latents(setup.batches.schedule.records, **arguments)
        shared.fill_text_states(texts, **arguments)
    assert not shared.list_missing_latents(setup.batches.schedule.records)
    assert not any(shared.list_missing_text_states(texts, name) for name in TEXT_ENCODER_CLASSES)


def test_a_sample_that_was_not_encoded_is_blamed_on_its_file_and_not_on_the_cache(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run"))
    shape, records = next(iter(setup.batches.schedule.records.items()))
    latent_cache = dataclasses.replace(setup.batches.latent_cache, cache=TensorCache(tmp_path / "empty"))
    with pytest.raises(DianjingError, match="as if the cache was cleared"):
        latent_cache.load_latents(records[0], shape)
    records[0].source.path.write_bytes(b"no picture")
    with pytest.raises(DianjingError, match=rf"{records[0].name} cannot be read as an image"):
        latent_cache.load_latents(records[0], shape)
