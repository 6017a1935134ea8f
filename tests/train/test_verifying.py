"""verify-resume: it must say yes of a run that resumes exactly, and no of one that does not."""

import pytest
import torch

from dianjing.train import verifying
from dianjing.train.loop import Trainer
from dianjing.train.verifying import STEPS, differences
from tests.train.conftest import TinyWorld, autoencoder_run


def test_run_that_resumes_exactly_has_no_differences_and_leaves_nothing_behind(tmp_path):
    config = autoencoder_run(tmp_path / "run", total_steps=100)
    assert differences(config, TinyWorld()) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_lost_moments_are_found(tmp_path, monkeypatch):
    load = Trainer.load

    def forget(self, checkpoint):
        load(self, checkpoint)
        for state in self.optimizer.state.values():
            state["exp_avg"].zero_()

    monkeypatch.setattr(Trainer, "load", forget)
    found = differences(autoencoder_run(tmp_path / "run", total_steps=100), TinyWorld())
    assert any(name.startswith("model ") for name in found)


def test_data_that_begins_anew_is_found(tmp_path, monkeypatch):
    from dianjing.train import running

    loader = running.loader
    monkeypatch.setattr(running, "loader", lambda data, **given: loader(data, **{**given, "first_step": 0}))
    assert differences(autoencoder_run(tmp_path / "run", total_steps=100), TinyWorld())


def test_both_runs_go_as_far_as_was_meant(tmp_path, monkeypatch):
    steps = []
    compare = verifying._compare
    monkeypatch.setattr(verifying, "_compare", lambda a, b: steps.extend([a.step, b.step]) or compare(a, b))
    differences(autoencoder_run(tmp_path / "run", total_steps=100), TinyWorld())
    assert steps == [STEPS, STEPS]


def test_leftovers_of_another_try_are_named(tmp_path):
    (tmp_path / "run" / "verify-resume").mkdir(parents=True)
    with pytest.raises(ValueError, match="remove it first"):
        differences(autoencoder_run(tmp_path / "run"), TinyWorld())


def test_difference_is_reported_with_its_size():
    class Held:
        def __init__(self, value):
            self.step, self.value = 4, value

        def tensors(self, name):
            return {"weight": torch.tensor([self.value])}

    assert list(verifying._compare(Held(1.0), Held(1.0))) == []
    assert "differs by 0.5" in next(iter(verifying._compare(Held(1.0), Held(1.5))))
