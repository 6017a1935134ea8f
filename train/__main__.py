"""The trainer's command line, alone or under accelerate.

    python -m dianjing.train [verify-resume | plot-noise | average] CONFIG [--set a.b=c] [--resume auto|none|PATH]

verify-resume proves on the spot that stopping and resuming this run is the same as going on, bit for bit; plot-noise
draws which timesteps it trains at, and how much an error counts there, into its folder; average exports a finished run
again, with a moving average of length --sigma, a share of the run.
Exit codes: 0 done (or max_minutes over), 1 failed, or verify-resume found a difference, 2 usage, 75 stopped by a signal
after saving, 76 the gradient was not finite.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from dianjing.train.config import read_config
from dianjing.train.loop import Diverged, Outcome
from dianjing.train.running import average_of, fill_caches, plan_of, plot_noise_of, train
from dianjing.train.starting import write_templates
from dianjing.train.verifying import STEPS, differences

DIFFERENT = FAILED = 1
USAGE, INTERRUPTED, DIVERGED = 2, 75, 76
VERIFY, PLOT, AVERAGE = ACTIONS = ("verify-resume", "plot-noise", "average")


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(prog="python -m dianjing.train", description=lines[0], epilog=lines[-1])
    parser.add_argument("words", nargs="+", metavar=f"[{' | '.join(ACTIONS)}] CONFIG", help="the run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--resume", default="auto", help="auto (default), none, or a checkpoint")
    parser.add_argument("--init", action="store_true", help="write a commented run file to begin with")
    parser.add_argument("--dry-run", action="store_true", help="say what the run will do and need, and no more")
    parser.add_argument("--sigma", type=float, help="of average: such as 0.05 for a short one, or 0.2 for a long one")
    parser.add_argument("--cache-only", action="store_true", help="encode pictures and captions, and no more")
    return parser


def until_signalled() -> Callable[[], bool]:
    """Whether SIGTERM or Ctrl-C came since; a second one stops at once."""
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        signal.signal(signum, signal.SIG_DFL)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    return lambda: stopping


def _run(given: argparse.Namespace) -> int:
    action = given.words[0] if given.words[0] in ACTIONS else None
    if (given.sigma is None) == (action == AVERAGE):
        raise ValueError(f"--sigma goes with {AVERAGE}, and {AVERAGE} with --sigma: the average's length")
    if len(given.words) != (1 if action is None else 2):
        raise ValueError(f"give one run file; got {' '.join(given.words)!r}")
    path = Path(given.words[-1])
    if given.init:
        for written in write_templates(path):
            print(written)
        return 0
    config = read_config(path, given.overrides)
    if given.dry_run:
        for line in plan_of(config):
            print(line, flush=True)
        return 0
    if given.cache_only:
        fill_caches(config)
        return 0
    if action == PLOT:
        print(plot_noise_of(config))
        return 0
    if action == AVERAGE:
        average_of(config, given.sigma)
        return 0
    if action == VERIFY:
        found = differences(config)
        print("\n".join(found) or f"resuming is exact: weights, averages and moments are equal after {STEPS} steps")
        return DIFFERENT if found else 0
    outcome = train(config, resume=given.resume, wants_stop=until_signalled())
    print(outcome.value, flush=True)
    return INTERRUPTED if outcome is Outcome.INTERRUPTED else 0


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism
    try:
        return _run(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        print(f"error: a data worker died ({error}); --resume auto goes on from the last checkpoint", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
