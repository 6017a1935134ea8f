"""Averages of a length that is chosen after the run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dianjing.train.cli import main
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.loop import Outcome
from dianjing.train.trainer.posthoc_ema import (
    PowerFunctionAverage,
    get_beta,
    get_gamma,
    get_sigma_rel,
    reconstruct_ema,
    solve_coefficients,
)
from tests.train.tiny import make_autoencoder_config, make_trainer, never


def profile(t, gamma):
    """How much each of the steps 1 to t counts in an average."""
    shares = np.zeros(t)
    for step in range(1, t + 1):
        shares *= get_beta(step, gamma)
        shares[step - 1] += 1 - get_beta(step, gamma)
    return shares


def test_lengths_and_exponents_belong_together():
    for sigma, gamma in ((0.05, 16.97), (0.10, 6.94)):  # Karras et al. 2024, Sec. 3
        assert get_gamma(sigma) == pytest.approx(gamma, abs=0.02)
        assert get_sigma_rel(get_gamma(sigma)) == pytest.approx(sigma)
    with pytest.raises(ValueError, match=r"above 0 and below 0\.289"):
        get_gamma(0.4)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_profile_has_the_configured_length(sigma):
    t = 4000
    shares, times = profile(t, get_gamma(sigma)), np.arange(1, t + 1) / t
    assert shares.sum() == pytest.approx(1)
    deviation = np.sqrt((shares * times**2).sum() - (shares * times).sum() ** 2)
    assert deviation == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("target", [0.06, 0.08, 0.15])
def test_two_stored_lengths_reconstruct_another_one(target):
    t, snapshots = 1024, [(step, sigma) for step in range(64, 1025, 64) for sigma in (0.05, 0.10)]
    coefficients = solve_coefficients(snapshots, (t, target))
    assert coefficients.sum() == pytest.approx(1)
    total = np.zeros(t)
    for coefficient, (step, sigma) in zip(coefficients, snapshots, strict=True):
        total[:step] += coefficient * profile(step, get_gamma(sigma))
    expected = profile(t, get_gamma(target))
    assert np.linalg.norm(total - expected) < 0.05 * np.linalg.norm(expected)


def test_running_average_has_the_profile():
    model = torch.nn.Linear(1, 1, bias=False)
    average, values = PowerFunctionAverage(model, 0.1), np.random.default_rng(0).normal(size=50)
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(step)
    assert average.averages[0].item() == pytest.approx((profile(50, get_gamma(0.1)) * values).sum(), abs=1e-5)


def make_config(folder, **run):
    tree = json.loads(make_autoencoder_config(folder, **run).model_dump_json())
    tree["optimizer"]["ema_snapshot_every"] = 2
    return parse_run_config(tree)


def test_run_writes_snapshots_and_resumes_its_averages_bit_for_bit(tmp_path):
    for name, stop in (("uninterrupted", 99), ("resumed", 3)):
        config = make_config(tmp_path / name)
        trainer, batches = make_trainer(config)
        if trainer.train(batches(), should_stop=lambda t=trainer, s=stop: t.step == s) is Outcome.INTERRUPTED:
            trainer, batches = make_trainer(config)
            trainer.load(find_newest_checkpoint(tmp_path / name / "checkpoints")[0])
            trainer.train(batches(), should_stop=never)
    files = {name: sorted((tmp_path / name / "snapshots").iterdir()) for name in ("uninterrupted", "resumed")}
    names = [f"step-{step:08d}-{sigma}.safetensors" for step in (2, 4, 6) for sigma in ("0.050", "0.100")]
    assert [path.name for path in files["uninterrupted"]] == [path.name for path in files["resumed"]] == names
    for one, other in zip(*files.values(), strict=True):
        one, other = load_file(one), load_file(other)
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    step, weights = reconstruct_ema(tmp_path / "uninterrupted" / "snapshots", 0.10)
    snapshot = load_file(files["uninterrupted"][-1])
    assert step == 6
    assert weights.keys() == snapshot.keys()
    for key in snapshot:
        torch.testing.assert_close(weights[key], snapshot[key].float(), atol=2e-3, rtol=0)


def test_run_without_snapshots_is_refused_with_the_setting_for_them(tmp_path):
    with pytest.raises(ValueError, match=r"set optimizer\.ema_snapshot_every"):
        reconstruct_ema(tmp_path, 0.1)


def test_command_without_sigma_is_refused(tmp_path, capsys):
    assert main(["export-ema", str(tmp_path / "run.toml")]) == 2
    assert "--sigma" in capsys.readouterr().err
