"""The command `dianjing bench`, which needs a checkout of the repository."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Annotated, Any

import typer

import dianjing
from dianjing.cli.options import DebugOption
from dianjing.errors import DianjingError


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
    command = import_benchmark_command()
    command.run_bench(
        models=models,
        pairs=pairs,
        dtype=dtype,
        device=device,
        with_compile=with_compile,
        json_path=json_path,
        markdown=markdown,
    )


def import_benchmark_command() -> Any:
    """Import `benchmarks.command` from the folder beside the package, which only a checkout has.

    Raises: DianjingError in an installed package.
    """
    folder = Path(dianjing.__file__).resolve().parents[1] / "benchmarks"
    if not (folder / "__main__.py").is_file():
        raise DianjingError("benchmarks_not_installed")
    if "benchmarks" not in sys.modules:
        spec = ModuleSpec("benchmarks", None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("benchmarks.command")
