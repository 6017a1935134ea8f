"""One process a run folder; a killed one leaves nothing behind that would have to be removed."""

import os
import signal
import subprocess
import sys

import pytest

from dianjing.errors import DianjingError
from dianjing.train.run import train_model
from dianjing.train.trainer.run_lock import lock_run_folder
from tests.train.tiny import UNINTERRUPTED, TinySource, make_autoencoder_config

# holds the lock, and forks a child that outlives it, as a data worker may
HOLDER = """
import os, sys, time
from pathlib import Path
from dianjing.train.trainer.run_lock import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def test_second_process_is_refused_and_a_killed_one_frees_the_folder_at_once(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(DianjingError, match="another process is training in"):
            train_model(make_autoencoder_config(folder), TinySource(), **UNINTERRUPTED)
        assert not (folder / "checkpoints").exists()
        process.kill()
        process.wait(timeout=60)
        os.kill(child, 0)  # it lives
        with lock_run_folder(folder):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.stdout.close()


def test_folder_is_free_again_after_a_failed_run(tmp_path):
    config = make_autoencoder_config(tmp_path / "run")
    with pytest.raises(DianjingError, match="the image size is 16 px"):
        train_model(config, **UNINTERRUPTED)  # the sticker world is larger
    probe = "import sys; from pathlib import Path\nfrom dianjing.train.trainer.run_lock import lock_run_folder\n"
    probe += "with lock_run_folder(Path(sys.argv[1])): pass"
    subprocess.run([sys.executable, "-c", probe, str(tmp_path / "run")], check=True)
