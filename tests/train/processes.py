"""Training runs in processes of their own, started as users start them."""

import os
import subprocess
import sys
import time
from pathlib import Path

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


def start_training(folder: Path, *, total_steps: int) -> subprocess.Popen[str]:
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(RUN_FILE.format(folder=folder, total_steps=total_steps))
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
