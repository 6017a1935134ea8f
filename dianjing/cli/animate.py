"""The command `dianjing animate`. Nothing heavy is imported before it runs."""

import secrets
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dianjing.cli.options import (
    DebugOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    EnhanceOption,
    FpsOption,
    GuidanceModeOption,
    GuidanceScaleOption,
    JsonOption,
    LabelOption,
    LorasOption,
    ModelOption,
    NumFramesOption,
    ProducerOption,
    SchedulerOption,
    SecondsOption,
    SeedOption,
    SegmenterOption,
    SizeOption,
    SourceOption,
    StepsOption,
    VideoOutOption,
    print_video_result,
)


class RefineMode(str, Enum):
    """Choice of who makes the frames: the model, or its motion field from the image; auto by the image."""

    auto = "auto"
    on = "on"
    off = "off"


def animate(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to animate.")],
    click: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="A point of what should move, in pixels; several: X,Y;X,Y; outside it: -X,Y."),
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="What should move, as an image of the same size: white on black.")
    ] = None,
    motion: Annotated[
        list[str] | None, typer.Option(help="The motion, one for each --click, then one for each --mask.")
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="Strength of the motion, 0 to 1: one for all, or one for each --motion.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE;...",
            help='A region with all of its settings: "click=90,40;path=90,40 120,30 150,60;turn=45;scale=0.8", or'
            ' "click=30,40;motion=jump;strength=0.7". Keys: click, mask, target (image: a camera move), motion,'
            " strength, path, turn, scale, times, anchor.",
        ),
    ] = None,
    refine: Annotated[
        RefineMode,
        typer.Option(help="Whether the model generates the frames (on), or its motion field moves IMAGE itself (off)."),
    ] = RefineMode.auto,
    prompt: Annotated[str, typer.Option(help="A description of the image; optional.")] = "",
    mask_preview: Annotated[
        Path | None, typer.Option(help="Also write the image with the regions marked; without --motion, only this.")
    ] = None,
    out: VideoOutOption = None,
    seconds: SecondsOption = None,
    num_frames: NumFramesOption = None,
    fps: FpsOption = None,
    seed: SeedOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceScaleOption = None,
    guidance_mode: GuidanceModeOption = None,
    scheduler: SchedulerOption = None,
    segmenter: SegmenterOption = None,
    strict_background: Annotated[
        bool,
        typer.Option(
            "--strict-background/--free-background",
            help="Whether a published model keeps what no region moves over as it is in IMAGE.",
        ),
    ] = True,
    transparent: Annotated[
        bool, typer.Option("--transparent", help="Cut out what the regions select: WebP, APNG, GIF, PNG.")
    ] = False,
    enhance: EnhanceOption = None,
    model: ModelOption = "sticker",
    source: SourceOption = None,
    lora: LorasOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: LabelOption = True,
    producer: ProducerOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Animate parts of IMAGE: --click 30,40 --motion "jump" --click 90,40 --motion "turn around"."""
    from dianjing.cli import video_job
    from dianjing.cli.options import parse_size

    width, height = parse_size(size) if size is not None else (None, None)
    job = video_job.validate_animation_job(
        image,
        click_texts=click or [],
        mask_paths=mask or [],
        region_texts=region or [],
        motions=motion or [],
        strengths=strength or [],
        prompt=prompt,
        mask_preview_path=mask_preview,
        segmenter=segmenter,
        strict_background=strict_background,
        refine=refine.value,
        enhance=enhance,
        is_transparent=transparent,
        out=out,
        duration_s=seconds,
        num_frames=num_frames,
        fps=fps,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        model=model,
        loras=lora or [],
        device=device,
        dtype=dtype.value,
        producer=(producer or video_job.PRODUCER) if label else None,
    )
    print_video_result(video_job.run_video_job(job), as_json=as_json)
