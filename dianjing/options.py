"""What the commands' options have in common."""

import json
import sys
from enum import Enum
from typing import Annotated

import typer

import dianjing


class Dtype(str, Enum):
    """The number format of the weights; auto lets the device decide."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Run:
    """What is known of one run of the command outside its own options."""

    debug = False


def _remember_debug(ctx: typer.Context, value: bool) -> bool:
    ctx.obj.debug = ctx.obj.debug or value
    return value


def _show_version(value: bool) -> None:
    if value:
        print(f"dianjing {dianjing.__version__}")
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", callback=_remember_debug, help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")]
Model = Annotated[str, typer.Option(help="A name from `dianjing models`, a folder or a Hub id.")]
Lora = Annotated[str | None, typer.Option(help="An adapter: a run's export, a .safetensors file, a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Number format of the weights.")]
Label = Annotated[bool, typer.Option("--label/--no-label", help="Write the implicit AIGC label (GB 45438).")]
Producer = Annotated[str | None, typer.Option(help="Who the label names as producer; Dianjing if left out.")]
Seed = Annotated[int | None, typer.Option(help="Start of the noise; drawn by lot and reported if left out.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="How closely to follow the words; 1 switches it off.")]


def print_json(value: object) -> None:
    # JSON is UTF-8; a file name that is not comes out escaped
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    print(json.dumps(value, ensure_ascii=False, indent=2))
