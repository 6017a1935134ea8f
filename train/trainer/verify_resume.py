"""Verification that stopping and resuming a run ends bit for bit where an uninterrupted run ends.

It is tried on the run itself, for a few steps in a folder of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from accelerate import PartialState

from dianjing.errors import DianjingError
from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.data.samples import SampleSource
from dianjing.train.run import train_model
from dianjing.train.trainer.checkpoint import Checkpoint, find_newest_checkpoint

NUM_STEPS = 4
STATE_GROUPS = ("model", "ema", "optimizer")


def find_resume_differences(config: AnyRunConfig, source: SampleSource | None = None) -> list[str]:
    """Differences after NUM_STEPS steps between an uninterrupted run and one that was stopped half way and resumed.

    Raises: DianjingError if the folder of an earlier try is left.
    """
    folder, process = config.run.folder / "verify-resume", PartialState()
    if folder.exists():
        raise DianjingError("verify_resume_leftovers", folder=folder)
    process.wait_for_everyone()
    try:
        uninterrupted = _run_in_parts(config, source, folder / "uninterrupted", stop_steps=[NUM_STEPS])
        resumed = _run_in_parts(config, source, folder / "resumed", stop_steps=[NUM_STEPS // 2, NUM_STEPS])
        return list(_compare(uninterrupted, resumed))
    finally:
        process.wait_for_everyone()
        if process.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def _run_in_parts(
    config: AnyRunConfig, source: SampleSource | None, folder: Path, *, stop_steps: list[int]
) -> Checkpoint:
    """Run to each of these steps in turn, resuming in between; returns the last checkpoint."""
    # several processes agree to stop when they log, so every step is logged
    run = config.run.model_copy(update={"folder": folder, "log_every": 1, "checkpoint_every": config.run.total_steps})
    previous = 0
    for stop in stop_steps:
        should_stop = _stop_after(stop - previous)
        train_model(config.model_copy(update={"run": run}), source, resume="auto", should_stop=should_stop)
        previous = stop
    checkpoint, skipped = find_newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None, f"no checkpoint of {folder} could be read: {skipped}"
    return checkpoint


def _stop_after(num_calls: int) -> Callable[[], bool]:
    calls = count(1)
    return lambda: next(calls) >= num_calls


def _compare(uninterrupted: Checkpoint, resumed: Checkpoint) -> Iterator[str]:
    if uninterrupted.step != resumed.step:
        yield f"the runs ended after {uninterrupted.step} and {resumed.step} steps"
    for group in STATE_GROUPS:
        expected, actual = uninterrupted.load_tensors(group), resumed.load_tensors(group)
        for name in sorted(expected.keys() | actual.keys()):
            if name not in expected or name not in actual:
                yield f"{group} {name}: only in one of the runs"
            elif not torch.equal(expected[name], actual[name]):
                difference = (expected[name].float() - actual[name].float()).abs().max()
                yield f"{group} {name}: differs by {difference:.3g}"
