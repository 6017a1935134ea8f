"""The command `dianjing bench`, which needs a checkout of the repository."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import dianjing
from dianjing.cli.options import DebugOption


def bench(
    models: Annotated[str, typer.Option(help="Model sizes to measure, separated by commas.")] = "sticker,medium,wide",
    pairs: Annotated[int, typer.Option(help="Minimum number of interleaved pairs; small models take more.")] = 5,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Measure both with torch.compile, too; takes minutes more.")
    ] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write all numbers to this file.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    debug: DebugOption = False,
) -> None:
    """Compare speed and numerical deviation with diffusers, on the same weights, from a checkout."""
    root = Path(dianjing.__file__).resolve().parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise ValueError(
            "the benchmarks are not part of an installed package; "
            "run `dianjing bench` from a checkout of the repository"
        )
    sys.path.insert(0, str(root))
    from benchmarks import command

    command.run_bench(
        models=models,
        pairs=pairs,
        dtype=dtype,
        device=device,
        with_compile=with_compile,
        json_path=json_path,
        markdown=markdown,
    )
