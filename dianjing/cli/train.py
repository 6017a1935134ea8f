"""Train."""

from typing import Annotated

import typer

from dianjing.cli.options import DebugOption


def train(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[verify-resume | plot-noise | export-ema] CONFIG", help="The run file (TOML).")
    ],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value.")] = None,
    resume: Annotated[str, typer.Option(help="auto, none, or a checkpoint's folder.")] = "auto",
    init: Annotated[bool, typer.Option("--init", help="Write a commented run file to begin with.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run will do and need, and no more.")] = False,
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="Encode pictures and captions, and no more.")
    ] = False,
    sigma: Annotated[float | None, typer.Option(help="Of export-ema: its length, as a share of the run.")] = None,
    debug: DebugOption = False,
) -> None:
    """Train from a run file; on several devices: accelerate launch -m dianjing.train CONFIG.

    `verify-resume CONFIG` tries on the spot whether stopping and resuming ends, bit for bit, where going on ends.
    `plot-noise CONFIG` draws which timesteps are trained at, and how much an error counts there.
    `export-ema CONFIG --sigma 0.1` exports a run that kept snapshots again, with a moving average of that length.
    """
    from dianjing.train.cli import main as train_main

    settings = [part for override in overrides or [] for part in ("--set", override)]
    given = {"--init": init, "--dry-run": dry_run, "--cache-only": cache_only}
    flags = [flag for flag, is_given in given.items() if is_given]
    flags += [] if sigma is None else ["--sigma", str(sigma)]
    raise typer.Exit(train_main([*arguments, *settings, "--resume", resume, *flags]))
