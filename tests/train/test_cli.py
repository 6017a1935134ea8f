"""The command as users run it: a process of its own, signals and exit codes."""

import json
import os
import signal

import pytest

from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from tests.train.processes import start_training, wait_for_steps

pytestmark = pytest.mark.timeout(400)  # each process imports torch, diffusers and transformers


def test_terminated_group_saves_exits_with_its_own_code_and_goes_on(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start_training(folder, total_steps=100_000)
    wait_for_steps(process, metrics, 2)
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal or a job manager does
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    saved, skipped = find_newest_checkpoint(folder / "checkpoints")
    assert skipped == []
    assert saved.step == len(metrics.read_text().splitlines())
    assert not (folder / "export").exists()

    process = start_training(folder, total_steps=saved.step + 2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, saved.step + 3))
    assert (folder / "export" / "vae" / "diffusion_pytorch_model.safetensors").exists()


def test_crashed_run_takes_its_data_workers_along(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start_training(folder, total_steps=100_000)
    wait_for_steps(process, metrics, 1)
    assert process.stderr is not None
    process.stderr.close()  # the progress bar breaks on it: an error nobody foresaw
    assert process.wait(timeout=200) not in (0, 75)
