"""The commands for film: `dianjing video` and `dianjing animate`. Nothing heavy is imported before it is needed."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

import dianjing
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
    Seed,
    Steps,
    print_json,
)

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="A .mp4, .webp, .gif or .png file; .png writes numbered frames.")
]
Seconds = Annotated[float | None, typer.Option(help="How long the film is.")]
Frames = Annotated[int | None, typer.Option(help="How many frames it has, in place of --seconds.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second.")]
Size = Annotated[str | None, typer.Option(help="Width x height in pixels: 128x96, or 128 for a square.")]


def video(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens in the film; quote it.")],
    out: Out = None,
    seconds: Seconds = None,
    frames: Frames = None,
    fps: Fps = None,
    seed: Seed = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[str | None, typer.Option(help="What to keep out of the film.")] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Draw a long film all together, not a picture and then piece by piece.")
    ] = False,
    model: Model = "sticker",
    lora: Lora = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: Label = True,
    producer: Producer = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a film from PROMPT, up to 16 seconds and more, and write it with its settings inside."""
    from dianjing import filming
    from dianjing.drawing import parse_size

    width, height = parse_size(size) if size is not None else (None, None)
    job = filming.plan_video(
        prompt,
        negative_prompt=negative,
        long_film="joint" if joint else None,
        out=out,
        duration_s=seconds,
        num_frames=frames,
        fps=fps,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        model=model,
        lora=lora,
        device=device,
        dtype=dtype.value,
        producer=(producer or filming.PRODUCER) if label else None,
    )
    _report(filming.make(job), as_json=as_json)


def animate(
    picture: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture that is clicked on.")],
    click: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="What should move, in pixels; more: X,Y;X,Y, and -X,Y for what is not meant."),
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="What should move, as a picture of the same size: white on black.")
    ] = None,
    motion: Annotated[
        list[str] | None, typer.Option(help="How it moves, one for each --click, then one for each --mask.")
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="How much, 0 to 1: one for all, or one for each --motion.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the picture shows; may be left out.")] = "",
    show_mask: Annotated[
        Path | None, typer.Option(help="Also write the picture with what was clicked marked; alone without --motion.")
    ] = None,
    out: Out = None,
    seconds: Seconds = None,
    frames: Frames = None,
    fps: Fps = None,
    seed: Seed = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    segmenter: Annotated[
        str | None, typer.Option(help="A folder or Hub id of SAM 2 or SAM, to find what was clicked; GrabCut without.")
    ] = None,
    model: Model = "sticker",
    lora: Lora = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: Label = True,
    producer: Producer = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let parts of IMAGE move: --click 30,40 --motion "jump" --click 90,40 --motion "turn around"."""
    from dianjing import filming
    from dianjing.drawing import parse_size

    width, height = parse_size(size) if size is not None else (None, None)
    job = filming.plan_animation(
        picture,
        clicks=click or [],
        masks=mask or [],
        motions=motion or [],
        strengths=strength or [],
        prompt=prompt,
        mask_path=show_mask,
        segmenter=segmenter,
        out=out,
        duration_s=seconds,
        num_frames=frames,
        fps=fps,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        model=model,
        lora=lora,
        device=device,
        dtype=dtype.value,
        producer=(producer or filming.PRODUCER) if label else None,
    )
    _report(filming.make(job), as_json=as_json)


def _report(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"version": dianjing.__version__, **made})
        return
    for path in [*made["paths"], *([made["mask"]] if made.get("mask") else [])]:
        print(path, flush=True)
