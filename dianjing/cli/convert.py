"""The command `dianjing convert`: weights from one published format to another."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from dianjing.cli.options import DebugOption, JsonOption, print_json
from dianjing.errors import Message, get_language


class StorageDtype(str, Enum):
    """Data type of stored weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    fp8 = "fp8"


class LoraFormat(str, Enum):
    """Who names the tensors of an adapter."""

    kohya = "kohya"
    comfyui = "comfyui"
    diffusers = "diffusers"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Tencent's .pt, a ComfyUI .safetensors, or a folder in diffusers' arrangement."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A .pt file (Tencent), a .safetensors file (ComfyUI), else a folder (diffusers)."
        ),
    ],
    dtype: Annotated[
        StorageDtype | None, typer.Option(help="Data type of the result; default: that of the source.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A pipeline, by name or folder: the other components are taken from it; with --to, word embeddings "
            "that equal its own are left out."
        ),
    ] = None,
    to: Annotated[
        LoraFormat | None, typer.Option(help="Write an adapter, in any format that loads here, under these names.")
    ] = None,
    sample_size: Annotated[
        int, typer.Option(min=1, help="Side of the trained latents, for a source without a configuration.")
    ] = 128,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Convert Hunyuan-DiT weights, ControlNets and adapters between Tencent's, diffusers' and ComfyUI's formats.

    The result is read back before it gets its name; the source is never changed, and nothing in it is executed.
    """
    from tqdm import tqdm

    from dianjing.weights.formats.conversion import check_conversion_paths, convert_model
    from dianjing.weights.formats.model_content import ModelContent
    from dianjing.weights.resolve import resolve_model

    check_conversion_paths(source, out, dtype=dtype and dtype.value)
    base_folder = None if base is None else resolve_model(base)
    if to is not None:
        from dianjing.weights.formats.lora_export import convert_adapter

        _print_report(convert_adapter(source, out, to=to.value, base=base_folder), as_json=as_json)
        return
    bar = tqdm(unit="B", unit_scale=True, disable=as_json or None)

    def announce(content: ModelContent) -> None:
        found = describe_content(content.kind, content.format, list(content.components))
        print(found.render(get_language()), file=sys.stderr)
        bar.reset(content.num_bytes)

    with bar:
        report = convert_model(
            source,
            out,
            dtype=dtype and dtype.value,
            base=base_folder,
            sample_size=sample_size,
            on_start=announce,
            on_bytes=bar.update,
        )
    _print_report(report, as_json=as_json)


def _print_report(report: Any, *, as_json: bool) -> None:
    if as_json:
        print_json({**vars(report), "components": list(report.components), "path": str(report.path)})
    else:
        print(report.path)


def describe_content(kind: str, source_format: str, components: list[str]) -> Message:
    """The line that says to the user what a source holds."""
    if kind == "pipeline":
        return Message("convert_found_pipeline", format=source_format, components=components)
    if kind == "component":
        return Message("convert_found_component", format=source_format, components=components)
    return Message("convert_found_single_file", format=source_format, components=components)
