"""A run that is killed again and again: `python -m tests.train.killing FOLDER KILLS`.

One process imports everything and forks the runs, so that a kill costs no new imports.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dianjing.train.run import train_model
from tests.train.tiny import TinySource, make_autoencoder_config

STEPS = 300
MAX_LIFETIME_S = 0.9  # lifetime of a run on a fast machine
MAX_LIFETIME_CHECKPOINTS = 2.0  # multiple of the time to the first checkpoint, on a slow one


def run(folder: Path) -> None:
    config = make_autoencoder_config(folder, total_steps=STEPS, checkpoint_every=1, log_every=1, export_dtype="float32")
    train_model(config, TinySource(), resume="auto", should_stop=lambda: False)


def start(folder: Path) -> int:
    """The run in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(folder)
            code = 0
        finally:
            os._exit(code)
    return child


def seconds_to_a_checkpoint(folder: Path) -> float:
    began, child = time.monotonic(), start(folder)
    while not list((folder / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    elapsed_s = time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return elapsed_s


def killed_inside_a_save(folder: Path, *, lives_s: float) -> bool | None:
    """Start the run and kill it; None where it came to its end first."""
    child = start(folder)
    time.sleep(lives_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the run failed by itself"
        return None
    return bool(list((folder / "checkpoints").glob("partial-*")))


def main() -> None:
    folder, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    kills = inside = steps = 0
    max_lifetime_s = MAX_LIFETIME_S
    if num_kills:
        max_lifetime_s = max(
            MAX_LIFETIME_S, MAX_LIFETIME_CHECKPOINTS * seconds_to_a_checkpoint(folder.parent / "timed")
        )
    while kills < num_kills:
        found = killed_inside_a_save(folder, lives_s=rng.uniform(0.05, max_lifetime_s))
        if found is None:
            break
        kills, inside = kills + 1, inside + found
        steps = max([steps, *(int(p.name.partition("-")[2]) for p in (folder / "checkpoints").glob("step-*"))])
    run(folder)
    print(json.dumps({"kills": kills, "inside_a_save": inside, "steps_when_last_killed": steps}))


if __name__ == "__main__":
    main()
