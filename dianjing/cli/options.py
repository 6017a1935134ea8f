"""Options that several commands share, and the printing of results."""

import json
import os
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import dianjing
from dianjing.errors import DianjingError, Message, get_language
from dianjing.weights.hubs import SOURCE_VARIABLE


class Dtype(str, Enum):
    """Data type of the weights; auto depends on the device."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ModelHub(str, Enum):
    """The hub that models are downloaded from."""

    huggingface = "huggingface"
    modelscope = "modelscope"


class CliState:
    """State of one run of the command line, shared by the commands and the error handler."""

    debug = False


def _set_debug(ctx: typer.Context, value: bool) -> bool:
    ctx.obj.debug = ctx.obj.debug or value
    return value


def _set_model_source(value: ModelHub | None) -> ModelHub | None:
    """Set the source for this process and those that it starts."""
    if value is not None:
        os.environ[SOURCE_VARIABLE] = value.value
    return value


def _print_version(value: bool) -> None:
    if value:
        print(f"dianjing {dianjing.__version__}")
        raise typer.Exit


DebugOption = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]
ModelOption = Annotated[str, typer.Option(help="A name from `dianjing models`, a folder or a Hub id.")]
SourceOption = Annotated[
    ModelHub | None,
    typer.Option("--source", callback=_set_model_source, help="The hub to download from; default: huggingface."),
]
LorasOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADAPTER[:STRENGTH]",
        help="An adapter, or several: a run's export, a .safetensors file, a Hub id; FILE:0.8 for its strength.",
    ),
]
ControlNetsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]CONTROLNET",
        help="A ControlNet, or several: a folder or a Hub id; NAME, else the last part of its path, is what calls it.",
    ),
]
ControlsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=MAP[:STRENGTH[:START-END]]",
        help="A control image for a ControlNet, or several; canny=edges.png:0.8:0-0.6 acts in the first 60 %.",
    ),
]
ControlsFromOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PICTURE[:STRENGTH[:START-END]]",
        help="A picture that a preprocessor (canny, lineart, tile, depth, pose) makes the control image from.",
    ),
]
PreprocessorsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="The model of the preprocessor depth or pose: a folder or a Hub id."),
]
IPAdapterOption = Annotated[
    str | None, typer.Option(help="An IP-Adapter (ipa.pt, or .safetensors): the file, its folder or a Hub id.")
]
IPAdapterImagesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:STRENGTH]", help="A picture as prompt for --ip-adapter, or several; FILE:0.6."),
]
IPAdapterEncoderOption = Annotated[
    str | None,
    typer.Option(help="The image tower of --ip-adapter: a folder, or clip_img_encoder.pt; sought beside the weights."),
]
ChatModelOption = Annotated[
    str | None, typer.Option(help="A chat model to parse the lines: a folder or a Hub id; default: rules.")
]
EnhanceOption = Annotated[
    str | None, typer.Option(help="A chat model that first rewrites the prompt with more detail: a folder or a Hub id.")
]
SegmenterOption = Annotated[
    str | None,
    typer.Option(
        help="A folder or Hub id of SAM 2 or SAM, to segment what is clicked; default: GrabCut, and the model's own "
        "segmenter for images like its own."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Data type of the weights.")]
LabelOption = Annotated[bool, typer.Option("--label/--no-label", help="Write the implicit AIGC label (GB 45438).")]
ProducerOption = Annotated[str | None, typer.Option(help="The producer that the label names; default: Dianjing.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of the noise; default: a random one, which is reported.")]
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps.")]
SlowOption = Annotated[
    bool | None,
    typer.Option(
        "--slow/--few-steps",
        help="Draw with the model alone, as --steps, a guidance and --lora do, or with its adapter for few steps.",
        show_default=False,
    ),
]
GuidanceScaleOption = Annotated[
    float | None, typer.Option(help="How closely to follow the prompt; 1 means no guidance.")
]

GuidanceModeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODE[:OPTION=VALUE,...]",
        help="How to guide: cfg, interval, apg, cfg_zero_star, skip_layer, pag, auto or tangential; "
        "options are those of diffusers' guider: apg:eta=0.5 or pag:layers=3+4.",
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,...]",
        help="A scheduler of diffusers that fits the model, with its options: EulerDiscrete:use_karras_sigmas, "
        "DPMSolverMultistep:use_exponential_sigmas or, of a flow model, UniPCMultistep:flow_shift=3.",
    ),
]


def format_error(text: str) -> str:
    """Return a line of stderr with a word for "error" in the language of the user."""
    return Message("error_line", text=text).render(get_language())


def print_json(value: object) -> None:
    """Print a value as JSON on stdout, in UTF-8; file names that are not UTF-8 are escaped."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    print(json.dumps(value, ensure_ascii=False, indent=2))


VideoOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="A .mp4, .webp, .apng, .gif or .png file; .png: numbered frames.")
]
SecondsOption = Annotated[float | None, typer.Option(help="Duration of the video in seconds.")]
NumFramesOption = Annotated[int | None, typer.Option(help="Number of frames, instead of --seconds.")]
FpsOption = Annotated[float | None, typer.Option(help="Frames per second.")]
SizeOption = Annotated[str | None, typer.Option(help="Width x height in pixels: 128x96, or 128 for a square.")]


def print_video_result(result: dict[str, Any], *, as_json: bool) -> None:
    """Print the paths of a result of `run_video_job`, or the result as JSON."""
    if as_json:
        print_json({"version": dianjing.__version__, **result})
        return
    for path in [*result["paths"], *([result["mask_preview"]] if result.get("mask_preview") else [])]:
        print(path, flush=True)


def parse_size(text: str) -> tuple[int, int]:
    """Parse "128" or "128x96" to (width, height) in pixels. Raises: DianjingError."""
    match = re.fullmatch(r"\s*(-?\d{1,12})\s*(?:[xX×*]\s*(-?\d{1,12}))?\s*", text)
    if match is None:
        raise DianjingError("option_size_malformed", value=repr(text))
    width = int(match[1])
    return width, width if match[2] is None else int(match[2])
