import json
from math import isclose

import pytest
import torch
from safetensors.torch import load_file

from dianjing.train.config.base import OptimizerConfig
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.schedule import BatchShards, Bucket, SourceSchedule, make_image_schedule
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.loop import NonFiniteGradientError, Outcome
from dianjing.train.trainer.optim import get_learning_rate, make_optimizer
from tests.train.tiny import (
    TinySource,
    TinyTask,
    assert_same_bits,
    load_newest_tensors,
    make_autoencoder_config,
    make_trainer,
    never,
)


def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path / "uninterrupted"))
    assert trainer.train(batches(), should_stop=never) is Outcome.FINISHED

    config = make_autoencoder_config(tmp_path / "resumed")
    first, batches = make_trainer(config)
    stop_after_two = iter([False, True])
    assert first.train(batches(), should_stop=lambda: next(stop_after_two)) is Outcome.INTERRUPTED
    second, batches = make_trainer(config)
    second.load(find_newest_checkpoint(tmp_path / "resumed" / "checkpoints")[0])
    assert second.step == 2
    assert second.train(batches(), should_stop=never) is Outcome.FINISHED
    assert_same_bits(load_newest_tensors(tmp_path / "uninterrupted"), load_newest_tensors(tmp_path / "resumed"))


def test_training_changes_weights_and_averages_and_lowers_the_loss(tmp_path):
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path, total_steps=60))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train(batches(), should_stop=never)
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved)
    weights, averages = trainer.ema.weights, trainer.ema.averages
    assert not any(torch.equal(a, b) for a, b in zip(weights, averages, strict=True))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] < lines[0]["loss"] / 2


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    for name, accumulation in (("one", 1), ("four", 4)):
        run = make_autoencoder_config(tmp_path / name, gradient_accumulation_steps=accumulation)
        trainer, batches = make_trainer(run)
        trainer.train(batches(), should_stop=never)
    one, four = load_newest_tensors(tmp_path / "one"), load_newest_tensors(tmp_path / "four")
    for key in one:
        torch.testing.assert_close(one[key], four[key], rtol=1e-4, atol=1e-5)


def test_checkpoint_of_two_processes_has_the_names_of_one(tmp_path):
    trainer, _ = make_trainer(make_autoencoder_config(tmp_path))
    trainer.save()
    saved = load_file(tmp_path / "checkpoints" / "step-00000000" / "model.safetensors")
    assert set(saved) == set(TinyTask().state_dict())


def test_non_finite_gradient_changes_nothing_and_saves_nothing(tmp_path):
    task = TinyTask()
    task.poison_step = 4
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path, log_every=100), task)
    with pytest.raises(NonFiniteGradientError, match=r"step 4 .*seed 7, image samples 16 to 19"):
        trainer.train(batches(), should_stop=never)
    assert find_newest_checkpoint(tmp_path / "checkpoints")[0].step == 3
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert all(average.isfinite().all() for average in trainer.ema.averages)


def test_non_finite_step_leaves_weights_and_moments_unchanged(tmp_path):
    task = TinyTask()
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path), task)
    stream = batches()
    trainer.train_step(stream)
    before = [p.detach().clone() for p in task.parameters()]
    task.poison_step = task.calls
    trainer.train_step(stream)
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))
    states = trainer.optimizer.state_dict()["state"].values()
    assert all(int(state["step"]) == 1 and state["exp_avg"].isfinite().all() for state in states)


def test_time_limit_saves_and_ends(tmp_path):
    trainer, batches = make_trainer(make_autoencoder_config(tmp_path, max_minutes=1e-6))
    assert trainer.train(batches(), should_stop=never) is Outcome.TIME_LIMIT
    assert find_newest_checkpoint(tmp_path / "checkpoints")[0].step == 1


def test_learning_rate_warms_up_and_decays():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_lr_fraction=0.1)
    rates = [get_learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert isclose(rates[60], 0.55)
    assert isclose(rates[110], 0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_norms_biases_and_embeddings_do_not_decay():
    model = torch.nn.ModuleDict({"e": torch.nn.Embedding(3, 4), "l": torch.nn.Linear(4, 4), "n": torch.nn.LayerNorm(4)})
    decayed, not_decayed = make_optimizer(model, OptimizerConfig(learning_rate=1.0)).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model["l"].weight)]
    assert len(not_decayed["params"]) == 4
    assert not_decayed["weight_decay"] == 0.0


def test_rows_of_all_processes_make_up_the_global_batch():
    all_rows = []
    for rank in range(3):
        layout = BatchShards(global_batch_size=12, accumulation_steps=2, num_processes=3, rank=rank)
        all_rows += [row for m in range(2) for row in range(12)[layout.get_rows(m)]]
    assert all_rows == list(range(12))


def test_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="try 12"):
        BatchShards(global_batch_size=13, accumulation_steps=2, num_processes=3, rank=0)


def test_data_depend_on_seed_and_position_only():
    def images(seed: int, accumulation: int) -> torch.Tensor:
        layout = BatchShards(global_batch_size=4, accumulation_steps=accumulation, num_processes=1, rank=0)
        data = MicroBatchDataset(make_image_schedule(TinySource(), layout, seed=seed), seed=seed)
        return torch.cat([data[2 * accumulation + m]["images"] for m in range(accumulation)])

    assert torch.equal(images(1, 1), images(1, 4))
    assert not torch.equal(images(1, 1), images(2, 1))


def test_each_bucket_occurs_by_its_weight_and_steps_are_deterministic():
    layouts = [BatchShards(global_batch_size=size, accumulation_steps=1, num_processes=1, rank=0) for size in (4, 2)]
    pictures, clips = Bucket(shards=layouts[0]), Bucket(kind="clip", num_frames=3, shards=layouts[1])
    schedule = SourceSchedule(
        source=TinySource(), buckets=[pictures, clips], sampling_weights=[3.0, 1.0], positions_per_step=4, seed=0
    )
    buckets = [schedule.bucket_at(step) for step in range(2000)]
    assert abs(buckets.count(pictures) / 2000 - 0.75) < 0.03
    assert buckets == [schedule.bucket_at(step) for step in range(2000)]
    data = MicroBatchDataset(schedule, seed=0)
    shapes = {tuple(data[step]["images"].shape) for step in range(20)}
    assert shapes == {(4, 16, 16, 3), (2, 3, 16, 16, 3)}
    with pytest.raises(ValueError, match=r"raise run\.batch_size"):
        SourceSchedule(source=TinySource(), buckets=[pictures], sampling_weights=[1.0], positions_per_step=2, seed=0)
