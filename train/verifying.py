"""Does stopping and resuming a run end where going on ends? Tried on the run itself, in a folder of its own."""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from accelerate import PartialState

from dianjing.train.checkpoints import Checkpoint, newest_valid
from dianjing.train.config import Run
from dianjing.train.data import World
from dianjing.train.running import train

STEPS = 4
KINDS = ("model", "ema", "optimizer")


def differences(config: Run, world: World | None = None) -> list[str]:
    """What differs after STEPS steps between a run that was stopped half way and resumed, and one that was not.

    Where a run logs seldom many processes stop late, so both log every step.
    """
    folder, here = config.run.folder / "verify-resume", PartialState()
    if folder.exists():
        raise ValueError(f"{folder} is there already, of another try; remove it first")
    here.wait_for_everyone()
    try:
        whole = _run(config, world, folder / "whole", stops=[STEPS])
        parted = _run(config, world, folder / "parted", stops=[STEPS // 2, STEPS])
        return list(_compare(whole, parted))
    finally:
        here.wait_for_everyone()
        if here.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def _run(config: Run, world: World | None, folder: Path, *, stops: list[int]) -> Checkpoint:
    """Stop after each of these many steps; resume after all but the last."""
    run = config.run.model_copy(update={"folder": folder, "log_every": 1, "checkpoint_every": config.run.total_steps})
    done = 0
    for stop in stops:
        train(config.model_copy(update={"run": run}), world, resume="auto", wants_stop=_after(stop - done))
        done = stop
    saved, skipped = newest_valid(folder / "checkpoints")
    assert saved is not None, f"no checkpoint of {folder} could be read: {skipped}"
    return saved


def _after(calls: int) -> Callable[[], bool]:
    asked = count(1)
    return lambda: next(asked) >= calls


def _compare(whole: Checkpoint, parted: Checkpoint) -> Iterator[str]:
    if whole.step != parted.step:
        yield f"the runs ended after {whole.step} and {parted.step} steps"
    for kind in KINDS:
        ours, theirs = whole.tensors(kind), parted.tensors(kind)
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs:
                yield f"{kind} {name}: in one of the runs only"
            elif not torch.equal(ours[name], theirs[name]):
                yield f"{kind} {name}: differs by {(ours[name].float() - theirs[name].float()).abs().max():.3g}"
