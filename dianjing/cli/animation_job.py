"""Work of `dianjing animate` with models that move the image itself, or that this package samples from."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dianjing
from dianjing.cli.announcements import announce_run, make_video_request
from dianjing.cli.mask_preview import load_segmenter, may_be_own
from dianjing.errors import DianjingError, Message, get_language
from dianjing.pipelines.media.image import get_input_image_metadata, open_image, open_image_with_alpha
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata, save_video
from dianjing.pipelines.segmentation.base import get_region_metadata
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

if TYPE_CHECKING:
    from dianjing.cli.video_job import VideoJob

WARP_OPTIONS = ("num_frames", "duration_s", "fps", "height", "width")


def needs_weights(job: "VideoJob") -> bool:
    """True if a job takes a model: motion phrases have to be understood, paths need none."""
    return any(region.motion for region in job.regions) or may_be_own(job)


def check_animation_job(job: "VideoJob") -> None:
    """Check a job that an own model animates. Raises: DianjingError for what `refine` does not allow."""
    if job.refine == "on" and any(region.needs_warp for region in job.regions):
        raise DianjingError("refine_with_paths")


def check_background(job: "VideoJob") -> None:
    """Raise DianjingError for a free background, which published models alone have."""
    if not job.strict_background:
        raise DianjingError("free_background_unsupported")


def run_animation_job(job: "VideoJob", *, load: Callable[["VideoJob"], Any]) -> dict[str, Any]:
    """Animate the image of a job and write the video, frame by frame; return paths and settings.

    load: loads the pipeline of the job, if it takes one.
    """
    assert job.image_path is not None
    assert job.settings is not None
    check_background(job)
    image, regions = open_image_with_alpha(job.image_path), job.regions
    arguments = {name: value for name, value in job.settings.items() if value is not None}
    start_s = time.monotonic()
    pipe = load(job) if needs_weights(job) else None
    if job.is_transparent:
        from dianjing.pipelines.transparency.transparent_video import cut_out_regions

        segmenter = pipe.segmenter if pipe is not None else load_segmenter(job.segmenter) or GrabCutSegmenter()
        cut = cut_out_regions(image, regions, segmenter=segmenter)
        image, regions = cut.image, list(cut.regions)
    warp_arguments = {name: value for name, value in arguments.items() if name in WARP_OPTIONS}
    if pipe is None:
        from dianjing.pipelines.video.warped_image import make_warped_image

        warped = make_warped_image(image, regions, segmenter=load_segmenter(job.segmenter), **warp_arguments)
        frames, crop_transform, is_refined = warped.frames, warped.crop_transform, False
    else:
        sides = {name: arguments.get(name) for name in ("height", "width")}
        refine = "off" if job.is_transparent else job.refine
        is_refined = pipe.should_refine(image, regions, refine=refine, **sides)
        if is_refined:
            frames, crop_transform = _generate(pipe, job, arguments)
        else:
            warped = pipe.warp(image, regions, **warp_arguments)
            frames, crop_transform = warped.frames, warped.crop_transform
    if crop_transform.source_size != crop_transform.target_size:
        message = Message("image_is_cropped", crop=crop_transform.to_message())
        print(message.render(get_language()), file=sys.stderr)
    metadata = _build_metadata(pipe, job, frames, is_refined=is_refined)
    fps: Any = metadata.settings["fps"]
    paths = [str(path) for path in save_video(frames, job.path, metadata, fps=fps, producer=job.producer)]
    result: dict[str, Any] = {
        "paths": paths,
        "crop_transform": str(crop_transform),
        "seconds": round(time.monotonic() - start_s, 3),
    }
    if pipe is not None:
        truncated = [asdict(each) for each in pipe.truncated] if is_refined else []
        nearest = pipe.find_nearest_words(job.prompt)
        result |= {"truncated": truncated, "unknown_words": list(nearest), "nearest_words": nearest}
    return {**result, **vars(metadata)}


def _generate(pipe: Any, job: "VideoJob", arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Sample the frames, uint8 (F, H, W, 3), and return them with the crop of the image."""
    import torch

    assert job.image_path is not None
    announce_run(pipe, job.model, [make_video_request(job)], adapters=job.adapters)
    generator = torch.Generator().manual_seed(job.seed)
    output = pipe(
        open_image(job.image_path),
        job.regions,
        job.prompt,
        generator=generator,
        output_type="uint8",
        refine="on",
        **arguments,
    )
    return output.frames[0], output.crop_transform


def _build_metadata(pipe: Any, job: "VideoJob", frames: Any, *, is_refined: bool) -> GenerationMetadata:
    """Return the metadata from which the video can be made again."""
    from dianjing.pipelines.video.warp_image import DEFAULT_FPS

    assert job.image_path is not None
    arguments = job.settings or {}
    fps = arguments.get("fps") or (DEFAULT_FPS if pipe is None else pipe.config.default_fps)
    settings = get_video_metadata(frames, fps)
    if is_refined:
        settings |= get_sampling_metadata(pipe)
        if arguments.get("negative_prompt") is not None:
            settings["negative_prompt"] = arguments["negative_prompt"]
        if job.adapters:
            settings["lora"] = [adapter.describe() for adapter in job.adapters]
    settings |= job.extra_metadata
    if job.is_transparent:
        settings["background"] = "transparent"
    settings["refine"] = "on" if is_refined else "off"
    settings["image"] = get_input_image_metadata(open_image(job.image_path), name=job.image_path.name)
    settings["regions"] = [get_region_metadata(region) for region in job.regions]
    return GenerationMetadata(
        prompt=job.prompt, seed=job.seed, settings=settings, model=job.model, version=dianjing.__version__
    )
