"""Work of `dianjing video` and `dianjing animate` with the published models that diffusers' own pipelines run."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dianjing
from dianjing.cli.announcements import announce_published_run
from dianjing.cli.loading import resolve_device, resolve_dtype, set_progress_bars
from dianjing.errors import DianjingError, Message, get_language
from dianjing.pipelines.media.image import get_input_image_metadata, open_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import get_video_metadata, save_video
from dianjing.pipelines.segmentation.base import get_region_metadata
from dianjing.pipelines.validation import check_prompt
from dianjing.pipelines.video.published_models import (
    PUBLISHED_PIPELINES,
    PublishedModel,
    VideoTask,
    check_task,
    find_pipeline_class,
    read_pipeline_class,
)
from dianjing.weights.resolve import resolve_local_model, resolve_model

if TYPE_CHECKING:
    from dianjing.cli.video_job import VideoJob

WINDOW_OPTIONS = ("long_video", "continuation_steps", "continuation_guidance_scale")
SAMPLING_OPTIONS = ("num_inference_steps", "guidance_scale", "negative_prompt")
CALL_OPTIONS = ("num_frames", "duration_s", "fps", "height", "width", *SAMPLING_OPTIONS)


def is_published_model(model: str) -> bool:
    """True for a registered, local or downloaded model that diffusers' own pipeline runs; downloads a hub id."""
    return find_pipeline_class(model) is not None or read_pipeline_class(resolve_model(model)) is not None


def may_be_published(model: str) -> bool:
    """True for a published model and for a hub id that is not on this machine, whose kind is not known yet."""
    return find_pipeline_class(model) is not None or resolve_local_model(model) is None


def check_published_job(job: "VideoJob") -> None:
    """Check a job against its model's table and, if its folder is on this machine, its configurations.

    Raises: DianjingError for a model of another task, and for sizes, lengths and options that it does not have.
    """
    class_name, folder = find_pipeline_class(job.model), resolve_local_model(job.model)
    if class_name is None:
        return
    _refuse_transparency(job)
    task = _get_task(job)
    if folder is None:
        if class_name != "WanPipeline":  # some of these take images too, as their configuration says
            check_task(job.model, PUBLISHED_PIPELINES[class_name], task)
        return
    _check_model(job, PublishedModel.from_folder(job.model, folder, task))


def _refuse_transparency(job: "VideoJob") -> None:
    if job.is_transparent:
        raise DianjingError("transparent_video_unsupported", model=job.model)


def _check_model(job: "VideoJob", model: PublishedModel) -> None:
    _refuse_transparency(job)
    settings = job.settings or {}
    own_options = {name: settings.get(name) for name in WINDOW_OPTIONS}
    own_options["--refine"] = job.refine != "auto"
    own_options |= {"--lora": job.adapters, "guidance_mode": settings.get("guider"), "scheduler": job.scheduler}
    for name, value in own_options.items():
        if value:
            model.refuse_option(name)
    if settings.get("negative_prompt") and not model.pipeline.takes_negative_prompt:
        model.refuse_option("negative_prompt")
    if not job.regions:
        check_prompt(job.prompt)
    num_frames = model.resolve_num_frames(settings["num_frames"], settings["duration_s"], settings["fps"])
    if job.regions and num_frames < 2:
        raise DianjingError("motion_needs_frames", num_frames=num_frames)
    image_size = None if job.image_path is None else open_image(job.image_path).size
    model.resolve_size(settings["width"], settings["height"], image_size)


def _get_task(job: "VideoJob") -> VideoTask:
    return "text-to-video" if job.image_path is None else "image-to-video"


def run_published_job(job: "VideoJob") -> dict[str, Any]:
    """Generate and write the video of a published model; return paths and settings."""
    model = PublishedModel.from_folder(job.model, resolve_model(job.model), _get_task(job))
    _check_model(job, model)
    pipe = _load(job, model)
    start_s = time.monotonic()
    output = _generate(pipe, job)
    result: dict[str, Any] = {"seconds": round(time.monotonic() - start_s, 3)}
    if output.crop_transform is not None:
        result["crop_transform"] = str(output.crop_transform)
        if output.crop_transform.source_size != output.crop_transform.target_size:
            message = Message("image_is_cropped", crop=output.crop_transform.to_message())
            print(message.render(get_language()), file=sys.stderr)
    frames, fps = output.frames[0], (job.settings or {}).get("fps") or pipe.model.default_fps
    metadata = _build_metadata(pipe, job, frames, fps)
    paths = save_video(frames, job.path, metadata, fps=fps, producer=job.producer)
    return {"paths": [str(path) for path in paths], **result, **vars(metadata)}


def _load(job: "VideoJob", model: PublishedModel) -> Any:
    """Load the pipeline; print before it how long the video takes, if that is long."""
    import torch

    from dianjing.pipelines.video.published import PublishedVideoPipeline

    device = resolve_device(torch, job.device)
    set_progress_bars(is_enabled=sys.stderr.isatty())
    dtype = resolve_dtype(torch, job.dtype, device)
    announce_published_run(model, _make_work(job, model), device=device, dtype=dtype)
    pipe = PublishedVideoPipeline.from_pretrained(job.model, task=_get_task(job), dtype=dtype)
    pipe.pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe.place(device)


def _make_work(job: "VideoJob", model: PublishedModel) -> Any:
    from dianjing.pipelines.video.published_cost import make_video_work

    settings = job.settings or {}
    image_size = None if job.image_path is None else open_image(job.image_path).size
    size = model.resolve_size(settings["width"], settings["height"], image_size)
    return make_video_work(
        model,
        num_frames=model.resolve_num_frames(settings["num_frames"], settings["duration_s"], settings["fps"]),
        size=size or model.choose_default_size(),
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        is_guided=bool(job.regions),
    )


def _generate(pipe: Any, job: "VideoJob") -> Any:
    import torch

    settings = job.settings or {}
    arguments = {name: settings[name] for name in CALL_OPTIONS if settings.get(name) is not None}
    arguments |= {"generator": torch.Generator().manual_seed(job.seed), "output_type": "uint8"}
    if job.image_path is None:
        return pipe(job.prompt, **arguments)
    image = open_image(job.image_path)
    if not job.regions:
        return pipe(job.prompt, image, **arguments)
    from dianjing.cli.mask_preview import load_segmenter
    from dianjing.pipelines.video.guided_video import animate_regions

    return animate_regions(
        pipe,
        image,
        job.regions,
        job.prompt,
        segmenter=load_segmenter(job.segmenter),
        strict_background=job.strict_background,
        **arguments,
    )


def _build_metadata(pipe: Any, job: "VideoJob", frames: Any, fps: float) -> GenerationMetadata:
    settings: dict[str, Any] = {**get_video_metadata(frames, fps), **pipe.describe()}
    options = (job.settings or {}).items()
    settings |= {name: value for name, value in options if name in SAMPLING_OPTIONS and value is not None}
    settings |= job.extra_metadata
    if job.image_path is not None:
        settings["image"] = get_input_image_metadata(open_image(job.image_path), name=Path(job.image_path).name)
        settings["regions"] = [get_region_metadata(region) for region in job.regions]
        settings["strict_background"] = job.strict_background and bool(job.regions)
    return GenerationMetadata(
        prompt=job.prompt, seed=job.seed, settings=settings, model=job.model, version=dianjing.__version__
    )
