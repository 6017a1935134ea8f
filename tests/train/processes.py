"""Training runs in processes of their own."""

import os
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from dianjing.train.cli import main

RUN_FILE = """
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


def write_run_file(folder: Path, *, total_steps: int, num_workers: int) -> Path:
    """Write the file of a run in `folder`, beside it."""
    path = folder.parent / f"{folder.name}.toml"
    text = RUN_FILE.format(folder=folder, total_steps=total_steps)
    path.write_text(text.replace("num_workers = 1", f"num_workers = {num_workers}"))
    return path


def start_training(folder: Path, *, total_steps: int) -> subprocess.Popen[str]:
    """Start a run with one data worker as users start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dianjing.train", str(write_run_file(folder, total_steps=total_steps, num_workers=1))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,
    )


def exit_after_training(arguments: list[str]) -> None:
    """End this process as the command does: a target of `start_process`."""
    sys.exit(main(arguments))


def wait_for_steps(process: subprocess.Popen[str] | BaseProcess, metrics: Path, steps: int) -> None:
    """Wait until a run has logged some steps."""
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        if isinstance(process, BaseProcess):
            assert process.exitcode is None
        else:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
