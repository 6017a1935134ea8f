"""`dianjing video` and `dianjing animate`: checked and planned without torch, then made, then written."""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dianjing
from dianjing.cli.loading import check_device, check_lora, load_pipeline
from dianjing.pipelines.media.aigc_label import PRODUCER
from dianjing.pipelines.media.atomic import check_output_path, check_writable_folder, write_atomic
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import check_video_output_path, get_video_metadata, save_video
from dianjing.pipelines.segmentation.base import Point, Region, Segmenter, check_region, get_region_metadata
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.validation import ImageRequest, check_fps, check_num_frames, check_prompt
from dianjing.weights.manifest import read_components
from dianjing.weights.resolve import resolve_local_model

__all__ = ["PRODUCER", "VideoJob", "run_video_job", "validate_animation_job", "validate_video_job"]
MASK_COLOURS = ((255, 64, 64), (64, 128, 255), (64, 200, 64))  # of regions in a picture of masks
MIN_SIDE_PX = 16  # of a film's side, where the size is the model's


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """One film to make.

    `settings` are arguments of the pipeline, None for those left to the model; without any, only the masks are shown.
    """

    path: Path
    seed: int
    model: str
    device: str
    dtype: str
    producer: str | None
    lora: str | None  # an adapter
    prompt: str
    settings: dict[str, Any] | None
    image_path: Path | None = None  # that is clicked on; None for a film from words
    regions: list[Region] = field(default_factory=list)
    mask_preview_path: Path | None = None
    segmenter: str | None = None


def validate_video_job(
    prompt: str, *, negative_prompt: str | None, long_video: str | None, **settings: Any
) -> VideoJob:
    """Check everything that can be checked before weights load.

    Raises: ValueError that says what was given, what is allowed and what to do.
    """
    check_prompt(prompt)
    common = _validate_common(negative_prompt=negative_prompt, **settings)
    require_video_model(common["model"])
    common["settings"] |= {"negative_prompt": negative_prompt, "long_video": long_video}
    return VideoJob(prompt=prompt, **common)


def validate_animation_job(
    image_path: Path,
    *,
    click_texts: Sequence[str],
    mask_paths: Sequence[Path],
    motions: Sequence[str],
    strengths: Sequence[float],
    prompt: str,
    mask_preview_path: Path | None,
    segmenter: str | None,
    **settings: Any,
) -> VideoJob:
    """As `plan_video`; the picture and the masks are opened, and clicks compared with its size."""
    if prompt:
        check_prompt(prompt)
    common = _validate_common(negative_prompt=None, **settings)
    size = open_image(image_path).size
    parts: list[dict[str, Any]] = [{"points": parse_click(click)} for click in click_texts]
    parts += [{"mask": np.asarray(open_image(mask).convert("L")) > 127} for mask in mask_paths]
    if not parts:
        raise ValueError("nothing is clicked on; give --click X,Y (or --mask FILE) and --motion")
    if not motions and mask_preview_path is not None:
        motions = ["still"] * len(parts)
        common["settings"] = None
    else:
        require_video_model(common["model"])
    if len(motions) != len(parts):
        raise ValueError(f"{len(motions)} --motion for {len(parts)} --click and --mask; give one for each")
    if len(strengths) not in (0, 1, len(parts)):
        raise ValueError(f"{len(strengths)} --strength for {len(parts)} --motion; give one, or one for each")
    each = list(strengths) if len(strengths) == len(parts) else [strengths[0] if strengths else 0.5] * len(parts)
    regions = [Region(motion=m, strength=s, **part) for m, s, part in zip(motions, each, parts, strict=True)]
    for region in regions:
        check_region(region, size=size)
    if mask_preview_path is not None:
        check_output_path(mask_preview_path)
    return VideoJob(
        prompt=prompt,
        image_path=image_path,
        regions=regions,
        mask_preview_path=mask_preview_path,
        segmenter=segmenter,
        **common,
    )


def parse_click(text: str) -> list[Point]:
    """Read "30,40" or "30,40;-50,60": points in pixels, with a minus in front where it is not meant."""
    number = r"\s*[-+]?(?:\d+\.?\d*|\.\d+|nan|inf)\s*"
    points = []
    for part in text.split(";"):
        match = re.fullmatch(rf"\s*(-?)(\s*{number}),({number})", part, flags=re.IGNORECASE)
        if match is None:
            raise ValueError(f"--click is {text!r}; give X,Y in pixels such as 30,40, or several: 30,40;-50,60")
        points.append(Point(x=float(match[2]), y=float(match[3]), positive=not match[1]))
    return points


def _validate_common(
    *,
    out: Path | None,
    seed: int,
    model: str,
    lora: str | None,
    device: str,
    dtype: str,
    producer: str | None,
    duration_s: float | None,
    num_frames: int | None,
    fps: float | None,
    negative_prompt: str | None,
    **settings: Any,
) -> dict[str, Any]:
    """What both commands take, as fields of a job."""
    ImageRequest(prompt="film", seed=seed, negative_prompt=negative_prompt, **settings)
    check_device(device)
    folder = resolve_local_model(model)
    if folder is not None:
        read_components(folder)
    if lora is not None:
        check_lora(lora)
    pixels = (settings["width"] or MIN_SIDE_PX) * (settings["height"] or MIN_SIDE_PX)
    shown = 8.0 if fps is None else check_fps(fps)
    check_num_frames(num_frames, duration_s, shown, bytes_per_frame=3 * pixels)
    path = check_video_output_path(out) if out is not None else _make_output_path(seed)
    length = {"duration_s": duration_s, "num_frames": num_frames, "fps": fps}
    job = {"path": path, "seed": seed, "model": model, "lora": lora, "device": device, "dtype": dtype}
    return {**job, "producer": producer, "settings": {**settings, **length}}


def require_video_model(model: str) -> None:
    """Raise ValueError for a model of pictures only; one that is not here yet is not looked at."""
    folder = resolve_local_model(model)
    if folder is None:
        return
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/transformer has no readable config.json: {error}") from None
    if not config.get("use_motion_blocks"):
        raise ValueError(
            f"the model in {folder} draws pictures only; film needs one trained with use_motion_blocks "
            "(train/recipes/sticker_film.toml goes on from a picture model)"
        )


def _make_output_path(seed: int) -> Path:
    check_writable_folder(Path())
    names = (f"dianjing-{seed}{suffix}.mp4" for suffix in ["", *(f"-{n}" for n in range(1, 10_000))])
    return Path(next(name for name in names if not os.path.lexists(name)))


def run_video_job(job: VideoJob) -> dict[str, Any]:
    """Make and write the film; return its paths and settings."""
    made: dict[str, Any] = {"paths": []}
    if job.mask_preview_path is not None:
        made["mask_preview"] = str(write_mask_preview(job))
    if job.settings is None:
        return made
    pipe, given = load_video_pipeline(job), {name: value for name, value in job.settings.items() if value is not None}
    import torch

    generator, began = torch.Generator().manual_seed(job.seed), time.monotonic()
    if job.image_path is None:
        result = pipe(job.prompt, generator=generator, output_type="uint8", **given)
    else:
        picture = open_image(job.image_path)
        result = pipe(picture, job.regions, job.prompt, generator=generator, output_type="uint8", **given)
        made["crop_transform"] = str(result.crop_transform)
        if result.crop_transform.source_size != result.crop_transform.target_size:
            print(f"the picture: {result.crop_transform}", file=sys.stderr)
    frames, fps = result.frames[0], given.get("fps", pipe.config.default_fps)
    made["seconds"] = round(time.monotonic() - began, 3)
    record = build_video_metadata(pipe, job, frames, fps)
    made["paths"] = [str(path) for path in save_video(frames, job.path, record, fps=fps, producer=job.producer)]
    return {**made, **vars(record), "unknown_words": pipe.find_unknown_words(job.prompt)}


def load_video_pipeline(job: VideoJob) -> Any:
    """The pipeline on its device."""
    name = "TextToVideoPipeline" if job.image_path is None else "ImageToVideoPipeline"
    pipe = load_pipeline(name, model=job.model, device=job.device, dtype=job.dtype, lora=job.lora)
    if job.image_path is None:
        return pipe
    pipe.segmenter = make_segmenter(job)
    return pipe


def make_segmenter(job: VideoJob) -> Segmenter:
    if job.segmenter is None:
        return GrabCutSegmenter()
    from dianjing.pipelines.segmentation.sam import SamSegmenter

    return SamSegmenter.from_pretrained(job.segmenter)


def write_mask_preview(job: VideoJob) -> Path:
    """The picture with every region tinted in a colour of its own."""
    assert job.image_path is not None
    assert job.mask_preview_path is not None
    picture = np.asarray(open_image(job.image_path))
    segmenter = make_segmenter(job)
    segmenter.set_image(picture)
    shown = picture.astype(np.float32)
    for index, region in enumerate(job.regions):
        mask = segmenter.predict(region.points) if region.mask is None else region.mask
        shown[mask] = 0.45 * shown[mask] + 0.55 * np.array(MASK_COLOURS[index % len(MASK_COLOURS)], np.float32)
    image = Image.fromarray(shown.round().astype(np.uint8))
    write_atomic(job.mask_preview_path, partial(image.save, format="PNG"))
    return job.mask_preview_path


def build_video_metadata(pipe: Any, job: VideoJob, frames: np.ndarray, fps: float) -> GenerationMetadata:
    """What was done."""
    asked = job.settings or {}
    settings = {**get_video_metadata(frames, fps), **get_sampling_metadata(pipe)}
    kept = ("negative_prompt", "long_video")
    settings |= {name: asked[name] for name in kept if asked.get(name) is not None}
    if job.lora is not None:
        settings["lora"] = job.lora
    if job.image_path is not None:
        settings["image"] = job.image_path.name
        settings["regions"] = [get_region_metadata(region) for region in job.regions]
    return GenerationMetadata(
        prompt=job.prompt, seed=job.seed, settings=settings, model=job.model, version=dianjing.__version__
    )
