"""Faults of real machines: killed processes, full disks, dead data workers, lost ranks."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from dianjing.train.cli import main
from dianjing.train.data.loader import next_batch, start_loader
from dianjing.train.run import train_model
from dianjing.train.trainer.checkpoint import DiskSpaceError, find_newest_checkpoint
from tests.processes import start_process
from tests.train.processes import exit_after_training, start_training, wait_for_steps, write_run_file
from tests.train.tiny import TinySource, make_autoencoder_config

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow
def test_run_killed_twenty_times_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killing", str(tmp_path / "killed"), "20"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 20, report
    assert report["inside_a_save"] > 0, report  # otherwise the times of the kills were not random enough
    assert report["steps_when_last_killed"] > 0, report
    command = [sys.executable, "-m", "tests.train.killing", str(tmp_path / "uninterrupted"), "0"]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)
    ends = [find_newest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("killed", "uninterrupted")]
    assert ends[0].step == ends[1].step
    for file in ("model", "ema", "optimizer"):
        one, other = ((end.path / f"{file}.safetensors").read_bytes() for end in ends)
        assert one == other
    lines = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, ends[0].step + 1))


def test_full_disk_stops_the_run_and_the_old_checkpoint_stays(tmp_path, monkeypatch, capsys):
    config = make_autoencoder_config(tmp_path / "run", checkpoint_every=2)
    train_model(config, TinySource(), resume="auto", should_stop=iter([False, True]).__next__)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 99, 1))
    with pytest.raises(DiskSpaceError, match=r"GiB left; make room"):
        train_model(config, TinySource(), resume="auto", should_stop=lambda: False)
    assert find_newest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 2
    assert not list((tmp_path / "run" / "checkpoints").glob("partial-*"))


def test_full_disk_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    path = write_run_file(tmp_path / "run", total_steps=2, num_workers=0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 99, 1))
    assert main([str(path)]) == 1
    assert "make room" in capsys.readouterr().err


def test_dead_data_worker_ends_the_run_and_it_goes_on_from_there(tmp_path):
    folder = tmp_path / "run"
    process = start_training(folder, total_steps=100_000)
    wait_for_steps(process, folder / "metrics.jsonl", 2)
    workers = children(process.pid)
    assert workers
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert re.search("^error: .*data worker", errors, re.MULTILINE), errors
    assert main([str(write_run_file(folder, total_steps=3, num_workers=0))]) == 0


@pytest.mark.parametrize("error", [ConnectionResetError("Connection reset by peer"), EOFError()])
def test_worker_that_dies_while_its_pipe_is_read_is_named_too(error):
    def batches():
        raise error
        yield

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next_batch(batches())


def test_the_death_of_a_worker_is_raised_where_batches_are_read_and_nowhere_else():
    others = multiprocessing.active_children()
    batches = start_loader(DataLoader(list(range(1000)), batch_size=None, num_workers=1, prefetch_factor=2))
    assert next_batch(batches) == 0
    (worker,) = set(multiprocessing.active_children()).difference(others)
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(1)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(iter(partial(next_batch, batches), None))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_lost_rank_ends_all_of_them_and_the_run_resumes(tmp_path):
    folder = tmp_path / "run"
    arguments = [str(write_run_file(folder, total_steps=100_000, num_workers=0)), "--set", "run.checkpoint_every=2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **ENVIRONMENT,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [
        start_process(
            exit_after_training, arguments, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    wait_for_steps(ranks[0], folder / "metrics.jsonl", 5)
    ranks[1].kill()
    began = time.monotonic()
    ranks[0].join(100)
    assert ranks[0].exitcode not in (None, 0, 75)
    assert time.monotonic() - began < 60
    saved, _ = find_newest_checkpoint(folder / "checkpoints")
    assert saved.step >= 2
    assert main([*arguments, "--set", f"run.total_steps={saved.step + 1}"]) == 0
    assert find_newest_checkpoint(folder / "checkpoints")[0].step == saved.step + 1
