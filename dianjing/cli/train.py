"""The command `dianjing train`. Nothing heavy is imported before it runs."""

from typing import Annotated

import typer

from dianjing.cli.options import DebugOption


def train(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[verify-resume | plot-noise | export-ema] CONFIG", help="A run file (TOML).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a value of the file.")
    ] = None,
    resume: Annotated[str, typer.Option(help="auto, none, or the folder of a checkpoint.")] = "auto",
    init: Annotated[bool, typer.Option("--init", help="Write a commented run file to start from.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATA",
            help="With --init: the data set to train on, or a folder or data set file of kohya's sd-scripts.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what the run will do and need.")] = False,
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="Only encode images and captions to the cache.")
    ] = False,
    sigma: Annotated[float | None, typer.Option(help="Length of export-ema's average, as a share of the run.")] = None,
    debug: DebugOption = False,
) -> None:
    """Train from a run file; on several devices: accelerate launch -m dianjing.train CONFIG.

    `verify-resume CONFIG` checks that a stopped and resumed run ends bit for bit like an uninterrupted one.
    `plot-noise CONFIG` plots the distribution and the loss weights of the trained timesteps.
    `export-ema CONFIG --sigma 0.1` exports a finished run again, with a moving average of that length.
    """
    from dianjing.train.cli import run_train_command

    code = run_train_command(
        arguments,
        overrides=overrides or [],
        resume=resume,
        init=init,
        source=source,
        dry_run=dry_run,
        cache_only=cache_only,
        sigma=sigma,
    )
    raise typer.Exit(code)
