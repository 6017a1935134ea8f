"""The command `dianjing`. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 something failed, 2 what was given is wrong, 130 stopped by Ctrl-C.
Results go to stdout (as JSON with --json), everything else to stderr.
"""

import secrets
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

import dianjing
from dianjing import chat_command, demo_command, film_commands
from dianjing.errors import DianjingError, convert_system_error, get_language
from dianjing.options import (
    AsJson,
    Debug,
    Device,
    Dtype,
    DtypeOption,
    Guidance,
    Label,
    Lora,
    Model,
    Producer,
    Run,
    Seed,
    Steps,
    Version,
    print_json,
)

app = typer.Typer(
    name="dianjing",
    help="Dianjing 点睛: words in Chinese or English become pictures and films; a click lets a part of a picture move.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(version: Version = False) -> None:
    pass


@app.command(short_help="Draw pictures from words.")
def image(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; quote each prompt.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .png file, or a folder; several pictures are numbered."),
    ] = None,
    seed: Seed = None,
    size: Annotated[str | None, typer.Option(help="Width x height in pixels: 128x96, or 128 for a square.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[str | None, typer.Option(help="What to keep out of the picture.")] = None,
    count: Annotated[int, typer.Option(help="Pictures per prompt; each takes the next seed.")] = 1,
    grid: Annotated[Path | None, typer.Option(help="Also lay all pictures out in this .png file.")] = None,
    model: Model = "sticker",
    lora: Lora = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: Label = True,
    producer: Producer = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw a picture for each PROMPT and write it as PNG with its settings inside."""
    from dianjing import drawing

    width, height = drawing.parse_size(size) if size is not None else (None, None)
    job = drawing.plan(
        prompts,
        out=out,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        model=model,
        device=device,
        dtype=dtype.value,
        producer=(producer or drawing.PRODUCER) if label else None,
        negative_prompt=negative,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        num_images_per_prompt=count,
        grid=grid,
        lora=lora,
    )
    pictures = []
    for picture in drawing.draw(job):
        pictures.append(picture)
        if not as_json:
            print(picture["path"], flush=True)
    if job.grid is not None:
        drawing.write_grid(job)
        if not as_json:
            print(job.grid, flush=True)
    if as_json:
        grid_path = None if job.grid is None else str(job.grid)
        print_json({"version": dianjing.__version__, "pictures": pictures, "grid": grid_path})


app.command(short_help="Make a film from words.")(film_commands.video)
app.command(short_help="Click on a picture, and let that part move.")(film_commands.animate)
app.command(short_help="Draw in a conversation.")(chat_command.chat)
app.command(short_help="Draw, click, film and talk in the browser; the same over HTTP.")(demo_command.demo)


@app.command()
def models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the models known by name."""
    from dianjing.doctor import model_rows

    rows = model_rows()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:28}{row['where']:12}{row['licence']:28}{row['summary']}")
    print("\nA folder of your own or a Hub id (owner/name) can stand in place of a name.")


@app.command(short_help="Check this installation.")
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Check this installation: libraries, devices, weights, places to write."""
    from dianjing.doctor import examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.state:8}{finding.what:20}{finding.detail}")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


@app.command(short_help="Compare speed with diffusers.")
def bench(
    models: Annotated[str, typer.Option(help="Sizes to measure, with commas between.")] = "sticker,middle,wide",
    pairs: Annotated[int, typer.Option(help="Interleaved pairs, at least; small models take more.")] = 5,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Both sides with torch.compile too: takes minutes more.")
    ] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write every number to this file.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    debug: Debug = False,
) -> None:
    """Compare speed and deviation with diffusers, same weights, from a checkout."""
    root = Path(dianjing.__file__).resolve().parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise ValueError(
            "the benchmarks are not part of an installed package; "
            "run `dianjing bench` from a checkout of the repository"
        )
    sys.path.insert(0, str(root))
    from benchmarks import command

    command.bench(
        models=models,
        pairs=pairs,
        dtype=dtype,
        device=device,
        with_compile=with_compile,
        json_path=json_path,
        markdown=markdown,
    )


@app.command(short_help="Train, or fine-tune on pictures of your own.")
def train(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[verify-resume | plot-noise | average] CONFIG", help="The run file (TOML)."),
    ],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value.")] = None,
    resume: Annotated[str, typer.Option(help="auto, none, or a checkpoint's folder.")] = "auto",
    init: Annotated[bool, typer.Option("--init", help="Write a commented run file to begin with.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run will do and need, and no more.")] = False,
    cache_only: Annotated[
        bool, typer.Option("--cache-only", help="Encode pictures and captions, and no more.")
    ] = False,
    sigma: Annotated[float | None, typer.Option(help="Of average: its length, as a share of the run.")] = None,
    debug: Debug = False,
) -> None:
    """Train from a run file; on several devices: accelerate launch -m dianjing.train CONFIG.

    `verify-resume CONFIG` tries on the spot whether stopping and resuming ends, bit for bit, where going on ends.
    `plot-noise CONFIG` draws which timesteps are trained at, and how much an error counts there.
    `average CONFIG --sigma 0.1` exports a run that kept snapshots again, with a moving average of that length.
    """
    from dianjing.train.__main__ import main as train_main

    settings = [part for override in overrides or [] for part in ("--set", override)]
    given = {"--init": init, "--dry-run": dry_run, "--cache-only": cache_only}
    flags = [flag for flag, is_given in given.items() if is_given]
    flags += [] if sigma is None else ["--sigma", str(sigma)]
    raise typer.Exit(train_main([*words, *settings, "--resume", resume, *flags]))


def report(error: Exception, *, debug: bool) -> int:
    """Print on stderr what went wrong, in the user's language, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    user_error = convert_system_error(error)
    if user_error is None and not isinstance(error, ValueError | OSError):
        user_error = DianjingError("internal_error", reason=f"{type(error).__name__}: {error}")
    message = str(error) if user_error is None else user_error.render(get_language())
    more = "" if debug or isinstance(error, ValueError) else " (--debug shows the traceback)"
    print(f"error: {message}{more}", file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 1


def main() -> None:
    run = Run()
    try:
        code = app(standalone_mode=False, obj=run)  # Typer turns Ctrl-C into 130
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the parser
            error.show()
            code = error.exit_code
        else:
            code = report(error, debug=run.debug)
    sys.exit(code if isinstance(code, int) else 0)
