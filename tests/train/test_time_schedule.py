"""Runs that have a time and no number of steps: their learning rate ends with the time, and steps may share samples."""

import json

import pytest
import torch

from dianjing.train.checkpoints import newest_valid
from dianjing.train.config import parse_config
from dianjing.train.data import Layout, MicroBatches, loader, only_pictures, repeat_batches
from dianjing.train.loop import Outcome
from dianjing.train.optimizing import learning_rate
from dianjing.train.running import train
from dianjing.train.sections import OptimizerSection
from tests.train.conftest import TinyWorld, autoencoder_run, make_trainer

LAST_STEP = 10**6
OVER_TIME = {"decay_over": "time", "warmup_steps": 2, "learning_rate": 1e-2, "final_fraction": 0.1}


def timed_run(folder, *, seconds):
    config = autoencoder_run(
        folder,
        total_steps=LAST_STEP,
        checkpoint_every=LAST_STEP,
        sample_every=LAST_STEP,
        max_minutes=seconds / 60,
    )
    return config.model_copy(update={"optimizer": OptimizerSection(**OVER_TIME)})


def never() -> bool:
    return False


def test_the_cosine_follows_the_time_and_not_the_steps():
    config = OptimizerSection(**OVER_TIME)

    def rate(step: int, share: float) -> float:
        return learning_rate(config, step, LAST_STEP, elapsed_share=share)

    assert rate(0, 0.0) == pytest.approx(5e-3)  # of two steps of warm-up
    assert rate(5, 0.0) == rate(LAST_STEP, 0.0) == pytest.approx(1e-2)
    assert rate(5, 0.5) == pytest.approx(5.5e-3)
    assert rate(5, 1.0) == rate(5, 1.3) == pytest.approx(1e-3)


def test_a_timed_run_ends_in_time_at_the_final_rate(tmp_path):
    trainer, batches = make_trainer(timed_run(tmp_path, seconds=1.5))
    assert trainer.train(batches(), wants_stop=never) is Outcome.TIME_OVER
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 10 < len(rates) < LAST_STEP
    assert max(rates) > 9e-3
    assert rates[-1] < 1.2e-3
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_resumed_run_goes_on_where_its_time_stood(tmp_path):
    config = timed_run(tmp_path, seconds=60.0)
    first, batches = make_trainer(config)
    first.started -= 30.0  # half of its time is over
    stops = iter([False, True])
    assert first.train(batches(), wants_stop=lambda: next(stops)) is Outcome.INTERRUPTED
    second, batches = make_trainer(config)
    second.load(newest_valid(tmp_path / "checkpoints")[0])
    assert 30.0 <= second.seconds_before < 60.0
    second.started -= 30.0
    assert second.train(batches(), wants_stop=never) is Outcome.TIME_OVER
    assert second.step == 3  # a step, and then the time is over
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["learning_rate"] == pytest.approx(1e-3, rel=1e-3)


def test_steps_alone_have_a_time_of_their_own_after_resuming(tmp_path):
    """Without a rate that ends with it, max_minutes is the time of each sitting, as before."""
    config = timed_run(tmp_path, seconds=60.0).model_copy(update={"optimizer": OptimizerSection(learning_rate=1e-2)})
    trainer, _ = make_trainer(config)
    trainer.seconds_before = 3600.0
    assert not trainer._is_time_over()


def test_a_rate_over_time_needs_a_time_and_one_process(tmp_path, monkeypatch):
    config = timed_run(tmp_path, seconds=1.0)
    endless = config.model_copy(update={"run": config.run.model_copy(update={"max_minutes": None})})
    with pytest.raises(ValueError, match="max_minutes"):
        train(endless, TinyWorld(), resume="none", wants_stop=never)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        train(config, TinyWorld(), resume="none", wants_stop=never)


def images(first_step: int, *, workers: int = 0) -> list[torch.Tensor]:
    layout = Layout(global_batch=2, accumulation=1, processes=1, rank=0)
    data = MicroBatches(only_pictures(TinyWorld(), layout, seed=3), seed=3)
    steps = {"first_step": first_step, "total_steps": 8, "repeat_steps": 3}
    batches = iter(loader(data, **steps, workers=workers, prefetch=2, pin=False))
    return [batch["images"] for batch in repeat_batches(batches, **steps)]


def test_steps_share_samples_in_groups_whichever_step_comes_first():
    whole = images(0)
    assert len(whole) == 8
    groups = [whole[0:3], whole[3:6], whole[6:8]]
    assert all(torch.equal(image, group[0]) for group in groups for image in group)
    assert not torch.equal(whole[0], whole[3])
    for first_step in (1, 3, 5):
        assert all(torch.equal(a, b) for a, b in zip(images(first_step), whole[first_step:], strict=True))


def test_shared_samples_are_refused_where_buckets_differ(tmp_path):
    tree = json.loads(autoencoder_run(tmp_path).model_dump_json())
    tree["data"] |= {"repeat_steps": 2, "buckets": [{"kind": "picture"}, {"kind": "picture"}]}
    with pytest.raises(ValueError, match="repeat_steps"):
        parse_config(tree)
