"""verify-resume finds no differences in a run that resumes exactly, and finds them in one that does not."""

import pytest
import torch

from dianjing.train.trainer import verify_resume
from dianjing.train.trainer.loop import Trainer
from dianjing.train.trainer.verify_resume import NUM_STEPS, find_resume_differences
from tests.train.tiny import TinySource, make_autoencoder_config


def test_run_that_resumes_exactly_has_no_differences_and_leaves_nothing_behind(tmp_path):
    config = make_autoencoder_config(tmp_path / "run", total_steps=100)
    assert find_resume_differences(config, TinySource()) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_lost_moments_are_found(tmp_path, monkeypatch):
    load = Trainer.load

    def forget(self, checkpoint):
        load(self, checkpoint)
        for state in self.optimizer.state.values():
            state["exp_avg"].zero_()

    monkeypatch.setattr(Trainer, "load", forget)
    found = find_resume_differences(make_autoencoder_config(tmp_path / "run", total_steps=100), TinySource())
    assert any(name.startswith("model ") for name in found)


def test_data_that_starts_over_is_found(tmp_path, monkeypatch):
    from dianjing.train import run

    loader = run.make_loader
    monkeypatch.setattr(run, "make_loader", lambda data, **keywords: loader(data, **{**keywords, "first_step": 0}))
    assert find_resume_differences(make_autoencoder_config(tmp_path / "run", total_steps=100), TinySource())


def test_both_runs_make_all_steps(tmp_path, monkeypatch):
    steps = []
    compare = verify_resume._compare
    monkeypatch.setattr(verify_resume, "_compare", lambda a, b: steps.extend([a.step, b.step]) or compare(a, b))
    find_resume_differences(make_autoencoder_config(tmp_path / "run", total_steps=100), TinySource())
    assert steps == [NUM_STEPS, NUM_STEPS]


def test_leftovers_of_an_earlier_try_are_named(tmp_path):
    (tmp_path / "run" / "verify-resume").mkdir(parents=True)
    with pytest.raises(ValueError, match="remove it first"):
        find_resume_differences(make_autoencoder_config(tmp_path / "run"), TinySource())


def test_difference_is_reported_with_its_size():
    class StoredValue:
        def __init__(self, value):
            self.step, self.value = 4, value

        def load_tensors(self, name):
            return {"weight": torch.tensor([self.value])}

    assert list(verify_resume._compare(StoredValue(1.0), StoredValue(1.0))) == []
    assert "differs by 0.5" in next(iter(verify_resume._compare(StoredValue(1.0), StoredValue(1.5))))
