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
from dianjing.drawing import check_device, check_lora, load
from dianjing.pipelines.film_media import check_film_output, film_settings, save_film
from dianjing.pipelines.fitting import open_picture
from dianjing.pipelines.lengths import check_fps, check_num_frames
from dianjing.pipelines.media import PRODUCER, Record, check_folder_is_writable, check_output, run_settings, write_whole
from dianjing.pipelines.regions import Region, check_region, region_settings
from dianjing.pipelines.request import ImageRequest, check_prompt
from dianjing.pipelines.segmenting import GrabCut, Point, Segmenter
from dianjing.weights.fetching import local_folder
from dianjing.weights.folder import read_components

__all__ = ["PRODUCER", "FilmJob", "make", "plan_animation", "plan_video"]

TINTS = ((255, 64, 64), (64, 128, 255), (64, 200, 64))  # of regions in a picture of masks
SMALLEST_PX = 16  # of a film's side, where the size is the model's


@dataclass(frozen=True, kw_only=True)
class FilmJob:
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
    picture: Path | None = None  # that is clicked on; None for a film from words
    regions: list[Region] = field(default_factory=list)
    mask_path: Path | None = None
    segmenter: str | None = None


def plan_video(prompt: str, *, negative_prompt: str | None, long_film: str | None, **given: Any) -> FilmJob:
    """Check everything that can be checked before weights load.

    Raises: ValueError that says what was given, what is allowed and what to do.
    """
    check_prompt(prompt)
    common = _check_common(negative_prompt=negative_prompt, **given)
    check_moves(common["model"])
    common["settings"] |= {"negative_prompt": negative_prompt, "long_film": long_film}
    return FilmJob(prompt=prompt, **common)


def plan_animation(
    picture: Path,
    *,
    clicks: Sequence[str],
    masks: Sequence[Path],
    motions: Sequence[str],
    strengths: Sequence[float],
    prompt: str,
    mask_path: Path | None,
    segmenter: str | None,
    **given: Any,
) -> FilmJob:
    """As `plan_video`; the picture and the masks are opened, and clicks compared with its size."""
    if prompt:
        check_prompt(prompt)
    common = _check_common(negative_prompt=None, **given)
    size = open_picture(picture).size
    parts: list[dict[str, Any]] = [{"points": parse_click(click)} for click in clicks]
    parts += [{"mask": np.asarray(open_picture(mask).convert("L")) > 127} for mask in masks]
    if not parts:
        raise ValueError("nothing is clicked on; give --click X,Y (or --mask FILE) and --motion")
    if not motions and mask_path is not None:
        motions = ["still"] * len(parts)
        common["settings"] = None
    else:
        check_moves(common["model"])
    if len(motions) != len(parts):
        raise ValueError(f"{len(motions)} --motion for {len(parts)} --click and --mask; give one for each")
    if len(strengths) not in (0, 1, len(parts)):
        raise ValueError(f"{len(strengths)} --strength for {len(parts)} --motion; give one, or one for each")
    each = list(strengths) if len(strengths) == len(parts) else [strengths[0] if strengths else 0.5] * len(parts)
    regions = [Region(motion=m, strength=s, **part) for m, s, part in zip(motions, each, parts, strict=True)]
    for region in regions:
        check_region(region, size=size)
    if mask_path is not None:
        check_output(mask_path)
    return FilmJob(prompt=prompt, picture=picture, regions=regions, mask_path=mask_path, segmenter=segmenter, **common)


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


def _check_common(
    *, out: Path | None, seed: int, model: str, lora: str | None, device: str, dtype: str, producer: str | None,
    duration_s: float | None, num_frames: int | None, fps: float | None, negative_prompt: str | None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """What both commands take, as fields of a job."""
    ImageRequest(prompt="film", seed=seed, negative_prompt=negative_prompt, **settings)
    check_device(device)
    folder = local_folder(model)
    if folder is not None:
        read_components(folder)
    if lora is not None:
        check_lora(lora)
    pixels = (settings["width"] or SMALLEST_PX) * (settings["height"] or SMALLEST_PX)
    shown = 8.0 if fps is None else check_fps(fps)
    check_num_frames(num_frames, duration_s, shown, bytes_a_frame=3 * pixels)
    path = check_film_output(out) if out is not None else _free_path(seed)
    length = {"duration_s": duration_s, "num_frames": num_frames, "fps": fps}
    job = {"path": path, "seed": seed, "model": model, "lora": lora, "device": device, "dtype": dtype}
    return {**job, "producer": producer, "settings": {**settings, **length}}


def check_moves(model: str) -> None:
    """Raise ValueError for a model of pictures only; one that is not here yet is not looked at."""
    folder = local_folder(model)
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


def _free_path(seed: int) -> Path:
    check_folder_is_writable(Path())
    names = (f"dianjing-{seed}{suffix}.mp4" for suffix in ["", *(f"-{n}" for n in range(1, 10_000))])
    return Path(next(name for name in names if not os.path.lexists(name)))


def make(job: FilmJob) -> dict[str, Any]:
    """Make and write the film; return its paths and settings."""
    made: dict[str, Any] = {"paths": []}
    if job.mask_path is not None:
        made["mask"] = str(write_masks(job))
    if job.settings is None:
        return made
    pipe, given = load_for(job), {name: value for name, value in job.settings.items() if value is not None}
    import torch

    generator, began = torch.Generator().manual_seed(job.seed), time.monotonic()
    if job.picture is None:
        result = pipe(job.prompt, generator=generator, output_type="uint8", **given)
    else:
        picture = open_picture(job.picture)
        result = pipe(picture, job.regions, job.prompt, generator=generator, output_type="uint8", **given)
        made["fit"] = str(result.fit)
        if result.fit.given != result.fit.fitted:
            print(f"the picture: {result.fit}", file=sys.stderr)
    frames, fps = result.frames[0], given.get("fps", pipe.config.default_fps)
    made["seconds"] = round(time.monotonic() - began, 3)
    record = record_of(pipe, job, frames, fps)
    made["paths"] = [str(path) for path in save_film(frames, job.path, record, fps=fps, producer=job.producer)]
    return {**made, **vars(record), "unknown_words": pipe.unknown_words(job.prompt)}


def load_for(job: FilmJob) -> Any:
    """The pipeline on its device."""
    name = "TextToVideoPipeline" if job.picture is None else "ImageToVideoPipeline"
    pipe = load(name, model=job.model, device=job.device, dtype=job.dtype, lora=job.lora)
    if job.picture is None:
        return pipe
    pipe.segmenter = make_segmenter(job)
    return pipe


def make_segmenter(job: FilmJob) -> Segmenter:
    if job.segmenter is None:
        return GrabCut()
    from dianjing.pipelines.sam import Sam

    return Sam.from_pretrained(job.segmenter)


def write_masks(job: FilmJob) -> Path:
    """The picture with every region tinted in a colour of its own."""
    assert job.picture is not None
    assert job.mask_path is not None
    picture = np.asarray(open_picture(job.picture))
    segmenter = make_segmenter(job)
    segmenter.look(picture)
    shown = picture.astype(np.float32)
    for index, region in enumerate(job.regions):
        mask = segmenter.mask(region.points) if region.mask is None else region.mask
        shown[mask] = 0.45 * shown[mask] + 0.55 * np.array(TINTS[index % len(TINTS)], np.float32)
    image = Image.fromarray(shown.round().astype(np.uint8))
    write_whole(job.mask_path, partial(image.save, format="PNG"))
    return job.mask_path


def record_of(pipe: Any, job: FilmJob, frames: np.ndarray, fps: float) -> Record:
    """What was done."""
    asked = job.settings or {}
    settings = {**film_settings(frames, fps), **run_settings(pipe)}
    kept = ("negative_prompt", "long_film")
    settings |= {name: asked[name] for name in kept if asked.get(name) is not None}
    if job.lora is not None:
        settings["lora"] = job.lora
    if job.picture is not None:
        settings["picture"] = job.picture.name
        settings["regions"] = [region_settings(region) for region in job.regions]
    return Record(prompt=job.prompt, seed=job.seed, settings=settings, model=job.model, version=dianjing.__version__)
