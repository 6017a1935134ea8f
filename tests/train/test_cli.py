"""The command as users run it: a process of its own, signals and exit codes."""

import json
import os
import signal
import time

import pytest

from dianjing.train.cli import main
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from tests.processes import start_process
from tests.train.processes import exit_after_training, start_training, wait_for_steps, write_run_file

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

    assert main([str(write_run_file(folder, total_steps=saved.step + 2, num_workers=0))]) == 0
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, saved.step + 3))
    assert (folder / "export" / "vae" / "diffusion_pytorch_model.safetensors").exists()


def test_ctrl_c_says_the_step_the_folder_and_how_to_go_on(tmp_path):
    folder = tmp_path / "a run"
    process = start_training(folder, total_steps=100_000)
    wait_for_steps(process, folder / "metrics.jsonl", 2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    saved, _ = find_newest_checkpoint(folder / "checkpoints")
    assert "press Ctrl-C again" in errors
    command = f"dianjing train '{tmp_path / 'a run.toml'}'"
    assert errors.splitlines()[-1] == (
        f"stopped after step {saved.step} of 100000, saved in {saved.path}; to go on: {command}"
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_first_step_ends_the_run_at_once_and_says_how_to_start_again(tmp_path, signum):
    folder, error_file = tmp_path / "run", tmp_path / "errors.txt"
    path = write_run_file(folder, total_steps=100_000, num_workers=0)
    process = start_process(exit_after_training, [str(path)], error_file=error_file)
    while not (folder / "run.lock").exists():  # it has begun, and trains nothing yet
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    process.join(200)
    errors = error_file.read_text(encoding="utf-8")
    assert process.exitcode == 75, errors
    assert "Traceback" not in errors
    lines = errors.splitlines()
    assert lines[-1].startswith("stopped before training: no step was made")
    assert lines[-1].endswith(f"dianjing train {tmp_path / 'run.toml'}")
    assert not list(folder.glob("checkpoints/step-*"))


def test_signal_before_a_resumed_run_goes_on_names_the_newest_checkpoint(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    path = write_run_file(folder, total_steps=2, num_workers=0)
    assert main([str(path)]) == 0

    def build(*arguments):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("dianjing.train.run.build_training", build)
    assert main([str(path), "--set", "run.total_steps=9"]) == 75
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{folder / 'checkpoints' / 'step-00000002'} stays the newest checkpoint" in line
    assert line.endswith(f"dianjing train {tmp_path / 'run.toml'} --set run.total_steps=9")


def test_crashed_run_takes_its_data_workers_along(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start_training(folder, total_steps=100_000)
    wait_for_steps(process, metrics, 1)
    assert process.stderr is not None
    process.stderr.close()  # the progress bar breaks on it: an error nobody foresaw
    assert process.wait(timeout=200) not in (0, 75)
