"""Does stopping and resuming a run end where going on ends? Tried on the run itself, in a folder of its own."""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from accelerate import PartialState

from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.data.samples import SampleSource
from dianjing.train.run import train_model
from dianjing.train.trainer.checkpoint import Checkpoint, find_newest_checkpoint

NUM_STEPS = 4
STATE_GROUPS = ("model", "ema", "optimizer")


def find_resume_differences(config: AnyRunConfig, source: SampleSource | None = None) -> list[str]:
    """What differs after STEPS steps between a run that was stopped half way and resumed, and one that was not.

    Where a run logs seldom many processes stop late, so both log every step.
    """
    folder, here = config.run.folder / "verify-resume", PartialState()
    if folder.exists():
        raise ValueError(f"{folder} is there already, of another try; remove it first")
    here.wait_for_everyone()
    try:
        whole = _run_in_parts(config, source, folder / "uninterrupted", stop_steps=[NUM_STEPS])
        parted = _run_in_parts(config, source, folder / "resumed", stop_steps=[NUM_STEPS // 2, NUM_STEPS])
        return list(_compare(whole, parted))
    finally:
        here.wait_for_everyone()
        if here.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def _run_in_parts(
    config: AnyRunConfig, source: SampleSource | None, folder: Path, *, stop_steps: list[int]
) -> Checkpoint:
    """Stop after each of these many steps; resume after all but the last."""
    run = config.run.model_copy(update={"folder": folder, "log_every": 1, "checkpoint_every": config.run.total_steps})
    done = 0
    for stop in stop_steps:
        train_model(config.model_copy(update={"run": run}), source, resume="auto", should_stop=_stop_after(stop - done))
        done = stop
    saved, skipped = find_newest_checkpoint(folder / "checkpoints")
    assert saved is not None, f"no checkpoint of {folder} could be read: {skipped}"
    return saved


def _stop_after(num_calls: int) -> Callable[[], bool]:
    asked = count(1)
    return lambda: next(asked) >= num_calls


def _compare(uninterrupted: Checkpoint, resumed: Checkpoint) -> Iterator[str]:
    if uninterrupted.step != resumed.step:
        yield f"the runs ended after {uninterrupted.step} and {resumed.step} steps"
    for kind in STATE_GROUPS:
        ours, theirs = uninterrupted.load_tensors(kind), resumed.load_tensors(kind)
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs:
                yield f"{kind} {name}: in one of the runs only"
            elif not torch.equal(ours[name], theirs[name]):
                yield f"{kind} {name}: differs by {(ours[name].float() - theirs[name].float()).abs().max():.3g}"
