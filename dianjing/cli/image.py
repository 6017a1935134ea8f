"""The command `dianjing image`. Nothing heavy is imported before it runs."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

import dianjing
from dianjing.cli.options import (
    ControlNetsOption,
    ControlsFromOption,
    ControlsOption,
    DebugOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    GuidanceModeOption,
    GuidanceScaleOption,
    IPAdapterEncoderOption,
    IPAdapterImagesOption,
    IPAdapterOption,
    JsonOption,
    LabelOption,
    LorasOption,
    ModelOption,
    PreprocessorsOption,
    ProducerOption,
    SchedulerOption,
    SeedOption,
    SlowOption,
    SourceOption,
    StepsOption,
    parse_size,
    print_json,
)


def image(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="A description of the image, in quotes.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .png file, or a folder; several images are numbered.")
    ] = None,
    seed: SeedOption = None,
    size: Annotated[str | None, typer.Option(help="Width x height in pixels: 128x96, or 128 for a square.")] = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceScaleOption = None,
    slow: SlowOption = None,
    guidance_mode: GuidanceModeOption = None,
    scheduler: SchedulerOption = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    count: Annotated[int, typer.Option(help="Images per prompt; each takes the next seed.")] = 1,
    grid: Annotated[Path | None, typer.Option(help="Also write all images as one grid to this .png file.")] = None,
    transparent: Annotated[
        bool, typer.Option("--transparent", help="Cut out what the prompt names: PNG or WebP with an alpha channel.")
    ] = False,
    model: ModelOption = "sticker",
    source: SourceOption = None,
    lora: LorasOption = None,
    controlnet: ControlNetsOption = None,
    control: ControlsOption = None,
    control_from: ControlsFromOption = None,
    preprocessor: PreprocessorsOption = None,
    ip_adapter: IPAdapterOption = None,
    ip_adapter_image: IPAdapterImagesOption = None,
    ip_adapter_encoder: IPAdapterEncoderOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: LabelOption = True,
    producer: ProducerOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Generate an image for each PROMPT and write it as PNG with its settings inside."""
    from dianjing.cli import image_job

    width, height = parse_size(size) if size is not None else (None, None)
    job = image_job.validate_image_job(
        prompts,
        out=out,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        model=model,
        device=device,
        dtype=dtype.value,
        producer=(producer or image_job.PRODUCER) if label else None,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        num_images_per_prompt=count,
        grid_path=grid,
        is_transparent=transparent,
        slow=slow,
        loras=lora or [],
        conditions=image_job.ImageConditionOptions(
            controlnets=controlnet or [],
            controls=control or [],
            controls_from=control_from or [],
            preprocessors=preprocessor or [],
            ip_adapter=ip_adapter,
            ip_adapter_images=ip_adapter_image or [],
            ip_adapter_encoder=ip_adapter_encoder,
        ),
    )
    results = []
    for result in image_job.run_image_job(job):
        results.append(result)
        if not as_json:
            print(result["path"], flush=True)
    if job.grid_path is not None:
        image_job.write_grid(job)
        if not as_json:
            print(job.grid_path, flush=True)
    if as_json:
        grid_path = None if job.grid_path is None else str(job.grid_path)
        print_json({"version": dianjing.__version__, "images": results, "grid": grid_path})
