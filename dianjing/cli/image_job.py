"""Work of `dianjing image` and `dianjing edit`: checked without torch; then images are written one by one."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import dianjing
from dianjing.cli.announcements import announce_run
from dianjing.cli.edit_job import EditJob, read_edit
from dianjing.cli.image_conditions import (
    ImageConditionOptions,
    ImageConditions,
    load_conditioned_pipeline,
    validate_image_conditions,
)
from dianjing.cli.loading import check_device, check_few_steps, check_sampling_options
from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import PRODUCER, make_image_label
from dianjing.pipelines.media.atomic import check_output_path, check_writable_folder
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.image import read_image_metadata, save_image
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.named_adapters import NamedAdapter, parse_adapters
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer
from dianjing.pipelines.transparency.prompt_check import check_transparent_prompt
from dianjing.pipelines.validation import DEFAULT_SIZE_MULTIPLE_PX, ImageRequest, check_int
from dianjing.weights import registry
from dianjing.weights.image_sizes import find_size_multiple_px
from dianjing.weights.manifest import read_components
from dianjing.weights.resolve import resolve_local_model

__all__ = [
    "PRODUCER",
    "ImageConditionOptions",
    "ImageJob",
    "read_edit",
    "run_image_job",
    "validate_image_job",
    "write_grid",
]
IMAGE_BATCH_SIZE = 8  # a seed gives the same image in any batch
PLACEHOLDER_PROMPT = "a prompt"  # of a forecast: the time of an image does not depend on it
GRID_COLUMNS, GRID_CELL_PX, GRID_GAP_PX = 8, 128, 4


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """One run of `dianjing image`: a request per prompt, and for each the paths of its images.

    producer: None writes no label. grid_path: None writes no grid. adapters: with their strengths. edit: of the image
    that `dianjing edit` starts from. guidance_mode, scheduler: by name, None for the model's own.
    """

    requests: list[ImageRequest]
    paths: list[list[Path]]
    model: str
    device: str
    dtype: str
    producer: str | None
    grid_path: Path | None
    adapters: tuple[NamedAdapter, ...] = ()
    edit: EditJob | None = None
    guidance_mode: str | None = None
    scheduler: str | None = None
    conditions: ImageConditions
    is_transparent: bool = False
    slow: bool | None = None


def validate_image_job(
    prompts: list[str],
    *,
    out: Path | None,
    seed: int,
    model: str,
    device: str,
    dtype: str,
    producer: str | None,
    grid_path: Path | None = None,
    loras: Sequence[str] = (),
    edit: EditJob | None = None,
    guidance_mode: str | None = None,
    scheduler: str | None = None,
    conditions: ImageConditionOptions | None = None,
    is_transparent: bool = False,
    slow: bool | None = None,
    **settings: Any,
) -> ImageJob:
    """Check all options before weights load, and choose the paths. Raises: DianjingError."""
    check_int(len(prompts), "the number of prompts", low=1, high=1000)
    folder = resolve_local_model(model)
    multiple_px = find_size_multiple_px(folder, default=DEFAULT_SIZE_MULTIPLE_PX)
    requests = [ImageRequest(prompt=prompt, seed=seed, size_multiple_px=multiple_px, **settings) for prompt in prompts]
    check_device(device)
    if folder is not None:
        read_components(folder)
    check_sampling_options(guidance_mode=guidance_mode, scheduler=scheduler, folder=folder)
    adapters = tuple(parse_adapters(loras))
    conditions = conditions or ImageConditionOptions()
    check_few_steps(
        slow,
        folder,
        **{name: settings.get(name) for name in ("num_inference_steps", "guidance_scale", "negative_prompt")},
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        controls=[*conditions.controls, *conditions.controls_from],
        ip_adapter=conditions.ip_adapter,
    )
    PromptNormalizer.check_prompts(prompts, folder, [adapter.path for adapter in adapters])
    if is_transparent:
        _check_transparent_prompts(prompts, folder, has_adapters=bool(adapters))
    image_conditions = validate_image_conditions(conditions, model=model, model_folder=folder)
    if edit is not None:
        edit.edit.check_conditions(image_conditions.controls)
    num_images = requests[0].num_images_per_prompt
    all_paths = _make_output_paths(
        out, seed, len(requests) * num_images, extensions=(".png", ".webp") if is_transparent else (".png",)
    )
    paths = [all_paths[i : i + num_images] for i in range(0, len(all_paths), num_images)]
    if grid_path is not None and check_output_path(grid_path) in all_paths:
        raise DianjingError("grid_overwrites_image", path=grid_path)
    return ImageJob(
        requests=requests,
        paths=paths,
        model=model,
        device=device,
        dtype=dtype,
        producer=producer,
        grid_path=grid_path,
        adapters=adapters,
        edit=edit,
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        conditions=image_conditions,
        is_transparent=is_transparent,
        slow=slow,
    )


def _check_transparent_prompts(prompts: Sequence[str], folder: Path | None, *, has_adapters: bool) -> None:
    """Raise DianjingError for a prompt in which the bundled model knows no object; adapters may know others."""
    if folder is None or has_adapters or not registry.is_bundled_folder(folder):
        return
    normalizer = PromptNormalizer.from_folder(folder)
    for prompt in prompts:
        check_transparent_prompt(normalizer, prompt)


def _make_output_paths(out: Path | None, seed: int, count: int, *, extensions: Sequence[str]) -> list[Path]:
    """Return the paths of the images, numbered if there are several; names that are not given never exist yet."""
    if out is not None and not out.is_dir():
        names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
        return [check_output_path(name, extensions=extensions) for name in names]
    folder = out if out is not None else Path()
    check_writable_folder(folder)
    paths: list[Path] = []
    number = 0 if count == 1 else 1
    while len(paths) < count:
        suffix = f"-{number}" if number else ""
        path = folder / f"dianjing-{seed}{suffix}.png"
        if not os.path.lexists(path):
            paths.append(path)
        number += 1
    return paths


def run_image_job(job: ImageJob) -> Iterator[dict[str, Any]]:
    """Generate and write the images; yield the id, path and settings of each one once it is on disk."""
    lora = {"lora": [adapter.describe() for adapter in job.adapters]} if job.adapters else {}
    edit = job.edit
    pipe, condition_arguments = load_conditioned_pipeline(
        "TextToImagePipeline" if edit is None else edit.edit.pipeline_name,
        job.conditions,
        model=job.model,
        device=job.device,
        dtype=job.dtype,
        adapters=job.adapters,
        scheduler=job.scheduler,
    )
    requests = job.requests if edit is None else [edit.choose_size(pipe, request) for request in job.requests]
    announce_run(pipe, job.model, [_get_work(request, job) for request in requests], adapters=job.adapters)
    options = {"slow": job.slow, "guider": job.guidance_mode, **condition_arguments}
    for request, paths in zip(requests, job.paths, strict=True):
        nearest = pipe.find_nearest_words(request.prompt)
        for start in range(0, len(paths), IMAGE_BATCH_SIZE):
            seeds = request.seeds[start : start + IMAGE_BATCH_SIZE]
            start_s = time.monotonic()
            images = generate_images(pipe, request, seeds, edit=edit, **options)
            if job.is_transparent:
                images = [pipe.remove_background(image, request.prompt) for image in images]
            seconds = (time.monotonic() - start_s) / len(images)
            for image, seed, path in zip(images, seeds, paths[start:], strict=False):
                metadata = build_image_metadata(pipe, image, request, seed=seed, model=job.model)
                if job.is_transparent:
                    metadata.settings["background"] = "transparent"
                metadata.settings.update(lora | job.conditions.describe())
                metadata.settings.update({} if edit is None else edit.get_metadata(request))
                label = make_image_label(image, metadata, producer=job.producer or PRODUCER)
                save_image(image, path, metadata, label=label if job.producer else None)
                yield {
                    "id": label["ProduceID"],
                    "path": str(path),
                    **asdict(metadata),
                    "unknown_words": list(nearest),
                    "nearest_words": nearest,
                    "truncated": [asdict(each) for each in pipe.truncated],
                    "seconds": round(seconds, 3),
                }


def _get_work(request: ImageRequest, job: ImageJob) -> Any:
    """Return the request of the web demo that has the work of a request of a job."""
    from dianjing.demo.edit_request import EditRequest
    from dianjing.demo.requests import TextToImageRequest

    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    arguments: dict[str, Any] = {name: getattr(request, name) for name in names}
    arguments |= {"prompt": PLACEHOLDER_PROMPT, "num_images": request.num_images_per_prompt, "slow": job.slow}
    arguments |= {"guidance_mode": job.guidance_mode, "scheduler": job.scheduler}
    if job.conditions.controls or job.conditions.ip_adapter is not None:
        arguments["slow"] = True  # by their default, as the conditions themselves are not read yet
    return TextToImageRequest(**arguments) if job.edit is None else EditRequest(**arguments, edit=job.edit.edit)


def write_grid(job: ImageJob) -> None:
    """Write all images of a job as one grid, a row for each prompt, or rows of GRID_COLUMNS; enlarge small images."""
    from diffusers.utils import make_image_grid

    assert job.grid_path is not None
    images = []
    for path in (path for paths in job.paths for path in paths):
        with Image.open(path, formats=("PNG", "WEBP")) as file:
            images.append(to_rgb(file))
    num_images, (width, height) = len(job.paths[0]), images[0].size
    columns = num_images if num_images > 1 else min(GRID_COLUMNS, len(images))
    scale = max(1, -(-GRID_CELL_PX // width))
    size = (width * scale, height * scale)
    border = (0, 0, GRID_GAP_PX, GRID_GAP_PX)  # at the right and at the bottom
    cells = [ImageOps.expand(image.resize(size, Image.Resampling.BICUBIC), border, "white") for image in images]
    rows = -(-len(cells) // columns)
    cells += [Image.new("RGB", cells[0].size, "white")] * (rows * columns - len(cells))
    grid = make_image_grid(cells, rows=rows, cols=columns)
    grid = grid.crop((0, 0, grid.width - GRID_GAP_PX, grid.height - GRID_GAP_PX))
    first = read_image_metadata(job.paths[0][0])
    metadata = replace(first, prompt="\n".join(request.prompt for request in job.requests))
    label = make_image_label(grid, metadata, producer=job.producer or PRODUCER)
    save_image(grid, job.grid_path, metadata, label=label if job.producer else None)


def generate_images(
    pipe: Any, request: ImageRequest, seeds: list[int], *, edit: EditJob | None = None, **options: Any
) -> list[Any]:
    """Return one PIL image per seed. options: arguments of the pipeline, None for its own default."""
    settings = {
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        **options,
    }
    arguments = {name: value for name, value in settings.items() if value is not None}
    if edit is not None:
        return edit.run(pipe, request.prompt, seeds, **arguments)
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(request.prompt, num_images_per_prompt=len(seeds), generator=generators, **arguments).images


def build_image_metadata(pipe: Any, image: Any, request: ImageRequest, *, seed: int, model: str) -> GenerationMetadata:
    """Return the metadata from which the image can be generated again."""
    size = {"width": image.width, "height": image.height}
    return GenerationMetadata(
        prompt=request.prompt,
        seed=seed,
        settings={**size, "negative_prompt": request.negative_prompt, **get_sampling_metadata(pipe)},
        model=model,
        version=dianjing.__version__,
    )
