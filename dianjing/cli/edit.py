"""The command `dianjing edit`. Nothing heavy is imported before it runs."""

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
    SegmenterOption,
    SizeOption,
    SlowOption,
    SourceOption,
    StepsOption,
    parse_size,
    print_json,
)


def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to edit.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A description of the edited image, in quotes.")],
    mask: Annotated[
        Path | None, typer.Option(help="What may change, as an image of the same size: white on black.")
    ] = None,
    click: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="A point of what may change, in pixels; several: X,Y;X,Y; outside it: -X,Y."),
    ] = None,
    what: Annotated[str | None, typer.Option(help='What may change, in words: "the cat".')] = None,
    extend: Annotated[
        list[str] | None,
        typer.Option(metavar="SIDE=PIXELS", help="Continue the image beyond its border: left=64, or left=64,top=32."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How far to go from the image, 0 to 1; default: 0.8, and 1 for what a mask, a click or words select."
        ),
    ] = None,
    padding_mask_crop: Annotated[
        int | None,
        typer.Option(help="Work on the part of the image around the mask alone, with so many pixels around it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .png file, or a folder; several images are numbered.")
    ] = None,
    seed: SeedOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceScaleOption = None,
    slow: SlowOption = None,
    guidance_mode: GuidanceModeOption = None,
    scheduler: SchedulerOption = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    count: Annotated[int, typer.Option(help="Edited images; each takes the next seed.")] = 1,
    segmenter: SegmenterOption = None,
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
    """Edit IMAGE to show what PROMPT says: all of it, what --mask, --click or --what select, or beyond its border."""
    from dianjing.cli import image_job

    width, height = parse_size(size) if size is not None else (None, None)
    job = image_job.validate_image_job(
        [prompt],
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
        slow=slow,
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        num_images_per_prompt=count,
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
        edit=image_job.read_edit(
            image,
            mask_path=mask,
            click=click,
            words=what,
            extensions=extend or [],
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            segmenter=segmenter,
        ),
    )
    results = []
    for result in image_job.run_image_job(job):
        results.append(result)
        if not as_json:
            print(result["path"], flush=True)
    if as_json:
        print_json({"version": dianjing.__version__, "images": results})
