"""The command as users run it: a process of its own, signals and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dianjing.train.trainer.checkpoint import find_newest_checkpoint

pytestmark = pytest.mark.timeout(400)  # each process imports torch, diffusers and transformers

CONFIG = """
task = "autoencoder"
[run]
folder = "{folder}"
total_steps = {total_steps}
batch_size = 2
log_every = 1
export_dtype = "float32"
[data]
size_px = 32
num_workers = 1
[[data.stages]]
scene_weights = {{ single = 1.0 }}
[optimizer]
learning_rate = 1e-3
[model]
block_out_channels = [4, 4]
norm_num_groups = 2
latent_channels = 2
[samples]
num_images = 2
num_statistics_images = 2
"""


def start(folder: Path, *, total_steps: int) -> subprocess.Popen[str]:
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(CONFIG.format(folder=folder, total_steps=total_steps))
    return subprocess.Popen(
        [sys.executable, "-m", "dianjing.train", str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,
    )


def wait_for_steps(process: subprocess.Popen[str], metrics: Path, steps: int) -> None:
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_terminated_group_saves_exits_with_its_own_code_and_goes_on(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start(folder, total_steps=100_000)
    wait_for_steps(process, metrics, 2)
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal or a job manager does
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    saved, skipped = find_newest_checkpoint(folder / "checkpoints")
    assert skipped == []
    assert saved.step == len(metrics.read_text().splitlines())
    assert not (folder / "export").exists()

    process = start(folder, total_steps=saved.step + 2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, saved.step + 3))
    assert (folder / "export" / "vae" / "diffusion_pytorch_model.safetensors").exists()


def test_crashed_run_takes_its_data_workers_along(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start(folder, total_steps=100_000)
    wait_for_steps(process, metrics, 1)
    assert process.stderr is not None
    process.stderr.close()  # the progress bar breaks on it: an error nobody foresaw
    assert process.wait(timeout=200) not in (0, 75)
