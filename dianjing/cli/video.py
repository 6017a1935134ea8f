"""The command `dianjing video`. Nothing heavy is imported before it runs."""

import secrets
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
    SizeOption,
    SourceOption,
    StepsOption,
    VideoOutOption,
    print_video_result,
)


def video(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A description of the video, in quotes.")],
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
    negative_prompt: Annotated[str | None, typer.Option(help="What the video should not show.")] = None,
    transparent: Annotated[
        bool, typer.Option("--transparent", help="Cut out what the prompt names: WebP, APNG, GIF, PNG.")
    ] = False,
    joint: Annotated[
        bool, typer.Option("--joint", help="Generate the parts of a long video together, not one after another.")
    ] = False,
    continuation_steps: Annotated[
        int | None, typer.Option(help="Denoising steps after the first frame; default: as --steps, or the model's.")
    ] = None,
    continuation_guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance after the first frame; default: as --guidance-scale, or the model's.")
    ] = None,
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
    """Generate a video from PROMPT, of 16 seconds and more, and write it with its settings inside."""
    from dianjing.cli import video_job
    from dianjing.cli.options import parse_size

    width, height = parse_size(size) if size is not None else (None, None)
    job = video_job.validate_video_job(
        prompt,
        negative_prompt=negative_prompt,
        enhance=enhance,
        is_transparent=transparent,
        long_video="joint" if joint else None,
        continuation_steps=continuation_steps,
        continuation_guidance_scale=continuation_guidance_scale,
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
