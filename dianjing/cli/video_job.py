"""Work of `dianjing video` and `dianjing animate`: checked without torch; then the video is generated and written."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dianjing
from dianjing.cli.animation_job import check_animation_job, check_background, needs_weights, run_animation_job
from dianjing.cli.enhancement import check_enhancement, enhance_job
from dianjing.cli.loading import check_device, check_sampling_options, load_pipeline
from dianjing.cli.mask_preview import load_segmenter, write_mask_preview
from dianjing.cli.published_job import check_published_job, is_published_model, may_be_published, run_published_job
from dianjing.cli.region_options import make_regions
from dianjing.cli.transparent_job import DEFAULT_ALPHA_EXTENSION, check_alpha_path, check_transparent_job
from dianjing.cli.video_frames import generate_frames
from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import PRODUCER
from dianjing.pipelines.media.atomic import check_output_path, check_writable_folder
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import check_video_output_path, get_video_metadata, save_video
from dianjing.pipelines.named_adapters import NamedAdapter, parse_adapters
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer
from dianjing.pipelines.segmentation.base import MAX_WARPED_REGIONS, Region, check_region
from dianjing.pipelines.validation import (
    DEFAULT_SIZE_MULTIPLE_PX,
    ImageRequest,
    Refine,
    check_fps,
    check_guidance_scale,
    check_num_frames,
    check_num_inference_steps,
    check_prompt,
)
from dianjing.pipelines.video.published_models import find_pipeline_class
from dianjing.weights.image_sizes import find_size_multiple_px
from dianjing.weights.manifest import read_components
from dianjing.weights.resolve import resolve_local_model

__all__ = ["PRODUCER", "VideoJob", "run_video_job", "validate_animation_job", "validate_video_job"]
DEFAULT_FPS, MIN_SIDE_PX = 8.0, 16  # for the estimate of memory; a lower bound of the default size


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """One run of `dianjing video` or `dianjing animate`.

    settings: arguments of the pipeline, with None for its defaults; without settings, only the mask preview is written.
    strict_background: of a published model's video. refine: of a model that has a motion field. enhance: the chat model
    that rewrites the prompt first. is_transparent: what moves is cut out of its background.
    """

    path: Path
    seed: int
    model: str
    device: str
    dtype: str
    producer: str | None
    adapters: tuple[NamedAdapter, ...]
    prompt: str
    settings: dict[str, Any] | None
    image_path: Path | None = None  # None for text to video
    regions: list[Region] = field(default_factory=list)
    mask_preview_path: Path | None = None
    segmenter: str | None = None
    strict_background: bool = True
    refine: Refine = "auto"
    enhance: str | None = None
    extra_metadata: dict[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    is_transparent: bool = False


def validate_video_job(
    prompt: str,
    *,
    negative_prompt: str | None,
    long_video: str | None,
    continuation_steps: int | None,
    continuation_guidance_scale: float | None,
    **settings: Any,
) -> VideoJob:
    """Check the options of `dianjing video` before weights load. Raises: DianjingError."""
    check_prompt(prompt)
    common = _validate_common(negative_prompt=negative_prompt, **settings)
    adapters = [adapter.path for adapter in common["adapters"]]
    PromptNormalizer.check_prompts([prompt], resolve_local_model(common["model"]), adapters, keeps_motions=True)
    if continuation_steps is not None:
        check_num_inference_steps(continuation_steps, "continuation_steps")
    if continuation_guidance_scale is not None:
        check_guidance_scale(continuation_guidance_scale, "continuation_guidance_scale")
    common["settings"] |= {
        "negative_prompt": negative_prompt,
        "long_video": long_video,
        "continuation_steps": continuation_steps,
        "continuation_guidance_scale": continuation_guidance_scale,
    }
    job = VideoJob(prompt=prompt, **common)
    _check_model(job)
    return job


def validate_animation_job(
    image_path: Path,
    *,
    click_texts: Sequence[str],
    mask_paths: Sequence[Path],
    region_texts: Sequence[str],
    motions: Sequence[str],
    strengths: Sequence[float],
    prompt: str,
    mask_preview_path: Path | None,
    segmenter: str | None,
    strict_background: bool,
    refine: Refine,
    **settings: Any,
) -> VideoJob:
    """Check the options of `dianjing animate` and the image and masks, before weights load. Raises: DianjingError."""
    if prompt:
        check_prompt(prompt)
    common = _validate_common(negative_prompt=None, has_any_size=refine != "on", **settings)
    size = open_image(image_path).size
    has_selection = bool(click_texts or mask_paths or region_texts)
    if not has_selection and (mask_preview_path is not None or not may_be_published(common["model"])):
        raise DianjingError("animation_without_region")
    if not motions and not region_texts and mask_preview_path is not None:
        motions = ["still"] * (len(click_texts) + len(mask_paths))
        common["settings"] = None
    regions = make_regions(click_texts, mask_paths, region_texts, motions=motions, strengths=strengths, size=size)
    if len(regions) > MAX_WARPED_REGIONS:
        raise DianjingError("region_count_out_of_range", count=len(regions), maximum=MAX_WARPED_REGIONS)
    for region in regions:
        check_region(region, size=size)
    if mask_preview_path is not None:
        check_output_path(mask_preview_path)
    job = VideoJob(
        prompt=prompt,
        image_path=image_path,
        regions=regions,
        mask_preview_path=mask_preview_path,
        segmenter=segmenter,
        strict_background=strict_background,
        refine=refine,
        **common,
    )
    if job.settings is not None:
        _check_model(job)
    return job


def _check_model(job: VideoJob) -> None:
    """Check that the model of a job generates videos, and these. Raises: DianjingError."""
    if find_pipeline_class(job.model) is not None:
        check_published_job(job)
        return
    if job.is_transparent:
        check_transparent_job(job)
    if job.image_path is not None:
        check_animation_job(job)
        if not may_be_published(job.model):
            check_background(job)
    if job.image_path is None or needs_weights(job):
        require_video_model(job.model)


def _validate_common(
    *,
    out: Path | None,
    seed: int,
    model: str,
    loras: Sequence[str],
    device: str,
    dtype: str,
    producer: str | None,
    enhance: str | None,
    duration_s: float | None,
    num_frames: int | None,
    fps: float | None,
    negative_prompt: str | None,
    guidance_mode: str | None,
    scheduler: str | None,
    has_any_size: bool = False,
    is_transparent: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Check the options of both commands, and return them as fields of a job.

    has_any_size: for an image that moves itself.
    """
    folder = resolve_local_model(model)
    multiple_px = 1 if has_any_size else find_size_multiple_px(folder, default=DEFAULT_SIZE_MULTIPLE_PX)
    ImageRequest(prompt="video", seed=seed, negative_prompt=negative_prompt, size_multiple_px=multiple_px, **settings)
    check_device(device)
    check_enhancement(enhance)
    if folder is not None:
        read_components(folder)
    check_sampling_options(guidance_mode=guidance_mode, scheduler=scheduler, folder=folder)
    num_bytes = 3 * (settings["width"] or MIN_SIDE_PX) * (settings["height"] or MIN_SIDE_PX)
    check_num_frames(num_frames, duration_s, check_fps(DEFAULT_FPS if fps is None else fps), bytes_per_frame=num_bytes)
    settings |= {"duration_s": duration_s, "num_frames": num_frames, "fps": fps, "guider": guidance_mode}
    suffix = DEFAULT_ALPHA_EXTENSION if is_transparent else ".mp4"
    path = _make_output_path(seed, suffix=suffix) if out is None else check_video_output_path(out)
    if is_transparent:
        check_alpha_path(path)
    return {
        "path": path,
        "is_transparent": is_transparent,
        "seed": seed,
        "model": model,
        "adapters": tuple(parse_adapters(loras)),
        "device": device,
        "dtype": dtype,
        "enhance": enhance,
        "scheduler": scheduler,
        "producer": producer,
        "settings": settings,
    }


def require_video_model(model: str) -> None:
    """Check that a model has motion blocks, if its folder is on this machine. Raises: DianjingError."""
    folder = resolve_local_model(model)
    if folder is None:
        return
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DianjingError("transformer_config_unreadable", folder=folder, reason=error) from None
    if not config.get("use_motion_blocks"):
        raise DianjingError("folder_generates_images_only", folder=folder)


def _make_output_path(seed: int, *, suffix: str) -> Path:
    check_writable_folder(Path())
    names = (f"dianjing-{seed}{number}{suffix}" for number in ["", *(f"-{n}" for n in range(1, 10_000))])
    return Path(next(name for name in names if not os.path.lexists(name)))


def run_video_job(job: VideoJob) -> dict[str, Any]:
    """Generate and write the video, or the mask preview; return paths and settings."""
    result: dict[str, Any] = {"paths": []}
    if job.mask_preview_path is not None:
        result["mask_preview"] = str(write_mask_preview(job, load=load_video_pipeline))
    if job.settings is None:
        return result
    job = enhance_job(job)
    assert job.settings is not None
    if is_published_model(job.model):
        return result | run_published_job(job)
    if job.image_path is not None:
        if not job.regions:
            raise DianjingError("animation_without_region")
        return result | run_animation_job(job, load=load_video_pipeline)
    pipe = load_video_pipeline(job)
    start_s = time.monotonic()
    frames = generate_frames(pipe, job)
    fps = job.settings["fps"] or pipe.config.default_fps
    metadata = build_video_metadata(pipe, job, frames, fps)
    result["paths"] = [str(path) for path in save_video(frames, job.path, metadata, fps=fps, producer=job.producer)]
    result["seconds"] = round(time.monotonic() - start_s, 3)
    nearest = pipe.find_nearest_words(job.prompt)
    words = {"unknown_words": list(nearest), "nearest_words": nearest}
    return {**result, **vars(metadata), **words, "truncated": [asdict(each) for each in pipe.truncated]}


def load_video_pipeline(job: VideoJob) -> Any:
    """Load the pipeline of a job, with its segmenter."""
    name = "TextToVideoPipeline" if job.image_path is None else "ImageToVideoPipeline"
    pipe = load_pipeline(
        name, model=job.model, device=job.device, dtype=job.dtype, adapters=job.adapters, scheduler=job.scheduler
    )
    if job.segmenter is not None:
        pipe.segmenter = load_segmenter(job.segmenter)
    return pipe


def build_video_metadata(pipe: Any, job: VideoJob, frames: Any, fps: float) -> GenerationMetadata:
    """Return the metadata from which the video can be generated again."""
    arguments = job.settings or {}
    settings = {**get_video_metadata(frames, fps), **get_sampling_metadata(pipe)}
    names = ("negative_prompt", "long_video")
    settings |= {name: arguments[name] for name in names if arguments.get(name) is not None}
    settings |= job.extra_metadata
    if job.is_transparent:
        settings["background"] = "transparent"
    if job.adapters:
        settings["lora"] = [adapter.describe() for adapter in job.adapters]
    return GenerationMetadata(
        prompt=job.prompt, seed=job.seed, settings=settings, model=job.model, version=dianjing.__version__
    )
