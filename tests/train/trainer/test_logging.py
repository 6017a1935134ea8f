import json

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from dianjing.train.cli import main
from dianjing.train.trainer.logging import RunLogger, check_trackers
from dianjing.train.trainer.plots import plot_losses, smooth_median
from tests.train.tiny import make_run_tree


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_resumed_step_and_incomplete_ones_are_dropped(tmp_path):
    logger = RunLogger(tmp_path, Accelerator(cpu=True), total_steps=100)
    for step in (1, 2, 3):
        logger.log(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # the process died here
    logger.start(2, {"run": {"seed": 0}})
    logger.log(3, {"loss": 0.25})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_tracker_that_is_not_installed_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        check_trackers(["tensorboard"])
    check_trackers([])


def test_smoothing_removes_spikes_and_preserves_slopes():
    values = np.linspace(3, 1, 100)
    spiked = values.copy()
    spiked[40] = 100
    assert np.abs(smooth_median(spiked) - values).max() < 0.1


def get_ink_fraction(path):
    """The fraction of an image that is not white."""
    return (np.asarray(Image.open(path).convert("RGB")).min(axis=2) < 200).mean()


def test_plot_shows_losses_and_validation_errors(tmp_path):
    plot_losses([], tmp_path / "empty.png")
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 50)]
    plot_losses(lines, tmp_path / "losses.png")
    plot_losses([*lines, {"step": 50, "validation_mse_zh": 0.9, "validation_mse_zh_q1": 0.9}], tmp_path / "both.png")
    empty, losses, both = (get_ink_fraction(tmp_path / f"{name}.png") for name in ("empty", "losses", "both"))
    assert empty < losses < both


def test_noise_plot_depends_on_gamma_and_timestep_sampling(tmp_path, capsys):
    tree = make_run_tree(tmp_path / "run")
    path = tmp_path / "run.toml"
    path.write_text(f"""
task = "text_to_image"
[run]
folder = "{tmp_path / "run"}"
total_steps = 1
batch_size = 1
[data]
size_px = 16
stages = [{{ scene_weights = {{ single = 1.0 }} }}]
[optimizer]
learning_rate = {tree["optimizer"]["learning_rate"]}
[model]
vae = "nowhere"
""")
    pictures = []
    for setting in (
        "objective.timestep_sampling=uniform",
        "objective.timestep_sampling=logit_normal",
        "objective.min_snr_gamma=5",
    ):
        assert main(["plot-noise", str(path), "--set", setting]) == 0
        pictures.append(np.asarray(Image.open(capsys.readouterr().out.strip()).convert("L")).astype(int))
    assert np.abs(pictures[1] - pictures[0]).max() > 50
    assert np.abs(pictures[2] - pictures[0]).max() > 50
