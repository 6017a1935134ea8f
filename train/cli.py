"""The command line of training, alone or under `accelerate launch`.

    python -m dianjing.train [verify-resume | plot-noise | export-ema] CONFIG [--set a.b=c] [--resume auto|none|PATH]

verify-resume checks that a stopped and resumed run ends bit for bit like an uninterrupted one; plot-noise plots the
distribution and the loss weights of the timesteps that are trained at, into the run's folder; export-ema exports a
finished run again, with a moving average of length --sigma, a fraction of the run.

Exit codes: 0 done (or max_minutes over), 1 failed, or verify-resume found a difference, 2 usage, 75 stopped by a signal
after saving, 76 the gradient was not finite.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from dianjing.errors import DianjingError, Message, convert_system_error, get_language
from dianjing.train.config.run_file import AnyRunConfig, read_run_config
from dianjing.train.new_run import write_run_files
from dianjing.train.run import describe_run, export_ema, fill_caches, is_main_launch, plot_run_timesteps, train_model
from dianjing.train.trainer.checkpoint import DiskSpaceError, list_checkpoints
from dianjing.train.trainer.loop import NonFiniteGradientError, Outcome
from dianjing.train.trainer.verify_resume import NUM_STEPS, find_resume_differences

EXIT_DIFFERENT = EXIT_FAILED = 1
EXIT_USAGE, EXIT_INTERRUPTED, EXIT_NON_FINITE = 2, 75, 76
VERIFY_RESUME, PLOT_NOISE, EXPORT_EMA = ACTIONS = ("verify-resume", "plot-noise", "export-ema")


def _make_parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(prog="python -m dianjing.train", description=lines[0], epilog=lines[-1])
    parser.add_argument("arguments", nargs="+", metavar=f"[{' | '.join(ACTIONS)}] CONFIG", help="a run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--resume", default="auto", help="auto (default), none, or the folder of a checkpoint")
    parser.add_argument("--init", action="store_true", help="write a commented run file to start from")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DATA",
        help="with --init: the data set to train on, or a folder or data set file of kohya's sd-scripts",
    )
    parser.add_argument("--dry-run", action="store_true", help="only report what the run will do and need")
    parser.add_argument("--sigma", type=float, help="length of export-ema's average, as a fraction of the run: 0.1")
    parser.add_argument("--cache-only", action="store_true", help="only encode images and captions to the cache")
    return parser


class StopSignal:
    """SIGTERM and Ctrl-C: they end a run at once before its first step, and after the current step later.

    Called, it is true after the first signal. A second one ends the process.
    """

    def __init__(self) -> None:
        self._is_stopping = self._is_training = False

    def install(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._handle)

    def on_start(self) -> None:
        """From now on, a signal lets the current step end."""
        self._is_training = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._is_stopping = True
        signal.signal(signum, signal.SIG_DFL)
        if not self._is_training:
            raise KeyboardInterrupt
        if is_main_launch():  # not by print, which may be under way when the signal comes
            os.write(sys.stderr.fileno(), f"\n{Message('run_stopping').render(get_language())}\n".encode())

    def __call__(self) -> bool:
        return self._is_stopping


def make_command(arguments: Sequence[str], overrides: Sequence[str]) -> str:
    """The command that starts the same run again, which goes on from its newest checkpoint."""
    launcher = (
        "dianjing train" if int(os.environ.get("WORLD_SIZE", "1")) == 1 else "accelerate launch -m dianjing.train"
    )
    return f"{launcher} {shlex.join([*arguments, *(part for each in overrides for part in ('--set', each))])}"


def _describe_stop(config: AnyRunConfig | None, command: str, *, has_trained: bool) -> Message:
    """The step and the checkpoint at which a run was stopped, and the command to go on."""
    paths = [] if config is None else list_checkpoints(config.run.folder / "checkpoints")
    if config is None or not paths:
        return Message("run_stopped_before_training", command=command)
    step, path = paths[0]
    if not has_trained:
        return Message("run_stopped_before_resuming", path=path, command=command)
    return Message("run_stopped", step=step, total_steps=config.run.total_steps, path=path, command=command)


def _run_action(
    arguments: Sequence[str],
    *,
    overrides: Sequence[str],
    resume: str,
    init: bool,
    source: str | None,
    dry_run: bool,
    cache_only: bool,
    sigma: float | None,
) -> int:
    action = arguments[0] if arguments[0] in ACTIONS else None
    if sigma is None and action == EXPORT_EMA:
        raise DianjingError("export_ema_without_sigma")
    if sigma is not None and action != EXPORT_EMA:
        raise DianjingError("sigma_without_export_ema", sigma=sigma)
    if len(arguments) != (1 if action is None else 2):
        raise DianjingError("one_run_file_expected", arguments=" ".join(arguments), actions=ACTIONS)
    path = Path(arguments[-1])
    if source is not None and not init:
        raise DianjingError("from_without_init", source=source)
    if init:
        written_paths, notes = write_run_files(path, None if source is None else Path(source), overrides)
        print("\n".join([*map(str, written_paths), *(note.render(get_language()) for note in notes)]))
        return 0
    config = read_run_config(path, overrides)
    if dry_run:
        for line in describe_run(config):
            print(line.render(get_language()), flush=True)
        return 0
    if cache_only:
        fill_caches(config)
        return 0
    if action == PLOT_NOISE:
        print(plot_run_timesteps(config))
        return 0
    if action == EXPORT_EMA:
        assert sigma is not None
        export_ema(config, sigma)
        return 0
    if action == VERIFY_RESUME:
        differences = find_resume_differences(config)
        print("\n".join(differences) or Message("resume_exact", steps=NUM_STEPS).render(get_language()))
        return EXIT_DIFFERENT if differences else 0
    return _train(config, resume=resume, command=make_command(arguments, overrides))


def _train(config: AnyRunConfig, *, resume: str, command: str) -> int:
    stop_signal = StopSignal()
    stop_signal.install()
    outcome: Outcome | None = None
    with suppress(KeyboardInterrupt):  # before the first step
        outcome = train_model(config, resume=resume, should_stop=stop_signal, on_start=stop_signal.on_start)
    if outcome is None or outcome is Outcome.INTERRUPTED:
        if is_main_launch():
            message = _describe_stop(config, command, has_trained=outcome is not None)
            print(message.render(get_language()), file=sys.stderr)
        return EXIT_INTERRUPTED
    end = Message("outcome_finished") if outcome is Outcome.FINISHED else Message("outcome_time_limit")
    print(end.render(get_language()), flush=True)
    return 0


def run_train_command(
    arguments: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    resume: str = "auto",
    init: bool = False,
    source: str | None = None,
    dry_run: bool = False,
    cache_only: bool = False,
    sigma: float | None = None,
) -> int:
    """Run the command with parsed options, print its errors, and return its exit code.

    `arguments` are a run file, alone or after one of ACTIONS.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers run in parallel
    try:
        return _run_action(
            arguments,
            overrides=overrides,
            resume=resume,
            init=init,
            source=source,
            dry_run=dry_run,
            cache_only=cache_only,
            sigma=sigma,
        )
    except KeyboardInterrupt:
        print(_describe_stop(None, make_command(arguments, overrides), has_trained=False).render(get_language()))
        return EXIT_INTERRUPTED
    except Exception as error:
        code, message = _explain_error(error)
        if message is None:
            raise
        line = Message("error_line", text=message).render(get_language())
        tqdm.write(line, file=sys.stderr)  # on a line of its own where a progress bar is open
        return code


def _explain_error(error: Exception) -> tuple[int, DianjingError | Message | None]:
    """The exit code and the message of an error; no message for a fault of this package."""
    if isinstance(error, NonFiniteGradientError):
        return EXIT_NON_FINITE, error
    if isinstance(error, DiskSpaceError):
        return EXIT_FAILED, error
    if isinstance(error, DianjingError):
        return EXIT_USAGE, error
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return EXIT_FAILED, Message("data_worker_died", reason=str(error).split("\n")[0])
    return EXIT_FAILED, convert_system_error(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse a command line and run it; returns the exit code."""
    return run_train_command(**vars(_make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
