"""Runs with a time in place of a number of steps: their learning rate ends with it, and steps may share samples."""

import json

import pytest
import torch

from dianjing.errors import DianjingError
from dianjing.train.config.base import OptimizerConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.data.loader import MicroBatchDataset, echo_batches, make_loader
from dianjing.train.data.schedule import make_image_schedule
from dianjing.train.run import train_model
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.loop import Outcome
from dianjing.train.trainer.optim import get_learning_rate
from tests.train.tiny import TinySource, make_autoencoder_config, make_shards, make_trainer, never

LAST_STEP = 10**6
OVER_TIME = {"lr_decay_over": "time", "warmup_steps": 2, "learning_rate": 1e-2, "final_lr_fraction": 0.1}


def make_timed_config(folder, *, seconds):
    config = make_autoencoder_config(
        folder, total_steps=LAST_STEP, checkpoint_every=LAST_STEP, sample_every=LAST_STEP, max_minutes=seconds / 60
    )
    return config.model_copy(update={"optimizer": OptimizerConfig(**OVER_TIME)})


def test_the_cosine_follows_the_time_and_not_the_steps():
    config = OptimizerConfig(**OVER_TIME)

    def get_rate(step: int, elapsed_fraction: float) -> float:
        return get_learning_rate(config, step, LAST_STEP, elapsed_fraction=elapsed_fraction)

    assert get_rate(0, 0.0) == pytest.approx(5e-3)  # the first of two steps of warm-up
    assert get_rate(5, 0.0) == get_rate(LAST_STEP, 0.0) == pytest.approx(1e-2)
    assert get_rate(5, 0.5) == pytest.approx(5.5e-3)
    assert get_rate(5, 1.0) == get_rate(5, 1.3) == pytest.approx(1e-3)


def test_a_timed_run_ends_in_time_at_the_final_rate(tmp_path):
    trainer, batches = make_trainer(make_timed_config(tmp_path, seconds=1.5))
    assert trainer.train(batches(), should_stop=never) is Outcome.TIME_LIMIT
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 10 < len(rates) < LAST_STEP
    assert max(rates) > 9e-3
    assert rates[-1] < 1.2e-3
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_resumed_run_continues_its_time(tmp_path):
    config = make_timed_config(tmp_path, seconds=60.0)
    first, batches = make_trainer(config)
    first.start_s -= 30.0  # half of its time is over
    stops = iter([False, True])
    assert first.train(batches(), should_stop=lambda: next(stops)) is Outcome.INTERRUPTED
    second, batches = make_trainer(config)
    second.load(find_newest_checkpoint(tmp_path / "checkpoints")[0])
    assert 30.0 <= second.previous_s < 60.0
    second.start_s -= 30.0
    assert second.train(batches(), should_stop=never) is Outcome.TIME_LIMIT
    assert second.step == 3  # one more step, and the time is over
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["learning_rate"] == pytest.approx(1e-3, rel=1e-3)


def test_without_a_time_schedule_each_process_has_the_full_time(tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e-2)
    config = make_timed_config(tmp_path, seconds=60.0).model_copy(update={"optimizer": optimizer})
    trainer, _ = make_trainer(config)
    trainer.previous_s = 3600.0
    assert not trainer._is_over_time()


def test_a_time_schedule_needs_a_time_limit_and_one_process(tmp_path, monkeypatch):
    config = make_timed_config(tmp_path, seconds=1.0)
    endless = config.model_copy(update={"run": config.run.model_copy(update={"max_minutes": None})})
    with pytest.raises(DianjingError, match="max_minutes"):
        train_model(endless, TinySource(), resume="none", should_stop=never)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DianjingError, match="one process"):
        train_model(config, TinySource(), resume="none", should_stop=never)


def load_echoed_images(first_step: int) -> list[torch.Tensor]:
    dataset = MicroBatchDataset(make_image_schedule(TinySource(), make_shards(2), seed=3), seed=3)
    steps = {"first_step": first_step, "total_steps": 8, "echo_factor": 3}
    loader = make_loader(dataset, **steps, num_workers=0, prefetch_factor=2, pin_memory=False)
    return [batch["images"] for batch in echo_batches(iter(loader), **steps)]


def test_steps_share_samples_in_groups_whatever_the_first_step_is():
    images = load_echoed_images(0)
    assert len(images) == 8
    groups = [images[0:3], images[3:6], images[6:8]]
    assert all(torch.equal(each, group[0]) for group in groups for each in group)
    assert not torch.equal(images[0], images[3])
    for first_step in (1, 3, 5):
        resumed = load_echoed_images(first_step)
        assert all(torch.equal(a, b) for a, b in zip(resumed, images[first_step:], strict=True))


def test_echoing_with_several_buckets_is_refused(tmp_path):
    tree = json.loads(make_autoencoder_config(tmp_path).model_dump_json())
    tree["data"] |= {"echo_factor": 2, "buckets": [{"kind": "image"}, {"kind": "image"}]}
    with pytest.raises(ValueError, match="echo_factor"):
        parse_run_config(tree)


def test_echoing_with_gradient_accumulation_is_refused(tmp_path):
    tree = json.loads(make_autoencoder_config(tmp_path, gradient_accumulation_steps=2).model_dump_json())
    tree["data"] |= {"echo_factor": 2}
    with pytest.raises(DianjingError, match=r"data.echo_factor and run.gradient_accumulation_steps"):
        train_model(parse_run_config(tree), TinySource(), resume="none", should_stop=never)
