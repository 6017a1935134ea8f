"""`dianjing image`: checked and planned without torch, then drawn, then written one by one."""

import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

import dianjing
from dianjing.pipelines.media import (
    PRODUCER,
    Record,
    check_folder_is_writable,
    check_output,
    label_of,
    read_settings,
    run_settings,
    save_picture,
)
from dianjing.pipelines.request import ImageRequest, check_whole
from dianjing.weights.fetching import HUB_ID, local_folder
from dianjing.weights.folder import read_components

__all__ = ["PRODUCER", "Job", "draw", "parse_size", "plan", "write_grid"]

BATCH = 8  # pictures at once; a seed gives the same picture in any batch
GRID_COLUMNS, GRID_CELL_PX, GRID_GAP_PX = 8, 128, 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `dianjing image`: a request per prompt, and a path per picture of each.

    `producer` None writes no label, `grid` None no picture of all pictures, `lora` None draws with the model alone.
    """

    requests: list[ImageRequest]
    paths: list[list[Path]]
    model: str
    device: str
    dtype: str
    producer: str | None
    grid: Path | None
    lora: str | None = None


def parse_size(text: str) -> tuple[int, int]:
    """Read "128" or "128x96" as (width, height) in pixels."""
    match = re.fullmatch(r"\s*(-?\d{1,12})\s*(?:[xX×*]\s*(-?\d{1,12}))?\s*", text)
    if match is None:
        raise ValueError(f"--size is {text!r}; give WIDTHxHEIGHT in pixels such as 128x96, or 128")
    width = int(match[1])
    return width, width if match[2] is None else int(match[2])


def plan(
    prompts: list[str],
    *,
    out: Path | None,
    seed: int,
    model: str,
    device: str,
    dtype: str,
    producer: str | None,
    grid: Path | None = None,
    lora: str | None = None,
    **settings: Any,
) -> Job:
    """Check everything that can be checked before weights load.

    Raises: ValueError that says what was given, what is allowed and what to do.
    """
    check_whole(len(prompts), "the number of prompts", low=1, high=1000)
    requests = [ImageRequest(prompt=prompt, seed=seed, **settings) for prompt in prompts]
    check_device(device)
    folder = local_folder(model)
    if folder is not None:
        read_components(folder)
    if lora is not None:
        check_lora(lora)
    each = requests[0].num_images_per_prompt
    flat = _paths(out, seed, len(requests) * each)
    paths = [flat[i : i + each] for i in range(0, len(flat), each)]
    if grid is not None and check_output(grid) in flat:
        raise ValueError(f"--grid {grid} is also the file of a picture; name another")
    return Job(
        requests=requests, paths=paths, model=model, device=device, dtype=dtype, producer=producer, grid=grid, lora=lora
    )  # fmt: skip


def check_device(name: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"--device is {name!r}; give auto, cpu, cuda, cuda:1 or mps")


def check_lora(name: str) -> None:
    """Raise ValueError for what is neither an adapter here nor a Hub id."""
    path = Path(name)
    if path.is_dir():
        if not list(path.glob("*.safetensors")):
            raise ValueError(f"--lora is the folder {name}, which holds no .safetensors; give the export of a run")
    elif path.exists():
        if path.suffix != ".safetensors":
            raise ValueError(f"--lora is {name}; give a .safetensors file, or the folder that holds one")
    elif not HUB_ID.fullmatch(name):
        raise ValueError(f"--lora: there is no {name}; give a .safetensors file, a folder that holds one, or a Hub id")


def _paths(out: Path | None, seed: int, count: int) -> list[Path]:
    """Numbered when there are several; a name we choose never hits an existing file."""
    if out is not None and not out.is_dir():
        names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
        return [check_output(name) for name in names]
    folder = out if out is not None else Path()
    check_folder_is_writable(folder)
    paths: list[Path] = []
    number = 0 if count == 1 else 1
    while len(paths) < count:
        suffix = f"-{number}" if number else ""
        path = folder / f"dianjing-{seed}{suffix}.png"
        if not os.path.lexists(path):
            paths.append(path)
        number += 1
    return paths


def draw(job: Job) -> Iterator[dict[str, Any]]:
    """Draw and write; yield the id, path and settings of each picture once it is on disk."""
    pipe = load("TextToImagePipeline", model=job.model, device=job.device, dtype=job.dtype, lora=job.lora)
    for request, paths in zip(job.requests, job.paths, strict=True):
        for start in range(0, len(paths), BATCH):
            seeds = request.seeds[start : start + BATCH]
            began = time.monotonic()
            images = call(pipe, request, seeds)
            seconds = (time.monotonic() - began) / len(images)
            for image, seed, path in zip(images, seeds, paths[start:], strict=False):
                record = record_of(pipe, image, request, seed=seed, model=job.model)
                if job.lora is not None:
                    record.settings["lora"] = job.lora
                label = label_of(image, record, producer=job.producer or PRODUCER)
                save_picture(image, path, record, label=label if job.producer else None)
                yield {
                    "id": label["ProduceID"],
                    "path": str(path),
                    **asdict(record),
                    "unknown_words": pipe.unknown_words(request.prompt),
                    "seconds": round(seconds, 3),
                }


def write_grid(job: Job) -> None:
    """All pictures of a job in one file, a row for each prompt or of GRID_COLUMNS; small ones enlarged."""
    assert job.grid is not None
    pictures = []
    for path in (path for paths in job.paths for path in paths):
        with Image.open(path, formats=("PNG",)) as picture:
            pictures.append(picture.convert("RGB"))
    each, (width, height) = len(job.paths[0]), pictures[0].size
    columns = each if each > 1 else min(GRID_COLUMNS, len(pictures))
    scale = max(1, -(-GRID_CELL_PX // width))
    size = (width * scale, height * scale)
    step_x, step_y = (side + GRID_GAP_PX for side in size)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step_x - GRID_GAP_PX, rows * step_y - GRID_GAP_PX), "white")
    for index, shown in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(shown.resize(size, Image.Resampling.BICUBIC), (column * step_x, row * step_y))
    first = read_settings(job.paths[0][0])
    record = replace(first, prompt="\n".join(request.prompt for request in job.requests))
    label = label_of(sheet, record, producer=job.producer or PRODUCER)
    save_picture(sheet, job.grid, record, label=label if job.producer else None)


def load(pipeline: str, *, model: str, device: str, dtype: str, lora: str | None = None) -> Any:
    """A pipeline, by its public name, on its device, with an adapter and the scheduler that lies beside it."""
    gc.disable()  # the imports make a million objects that stay: collecting among them costs 3 s, half of it at exit
    import torch

    cls = getattr(dianjing, pipeline)
    gc.freeze()
    gc.enable()
    device = pick_device(torch, device)
    _quieten(show_progress=sys.stderr.isatty())
    pipe = cls.from_pretrained(model, dtype=pick_dtype(torch, dtype, device))
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    if lora is not None:
        from dianjing.pipelines.lora import scheduler_beside

        pipe.load_lora_weights(lora)
        pipe.scheduler = scheduler_beside(lora) or pipe.scheduler
    return pipe.to(device)


def _quieten(*, show_progress: bool) -> None:
    """Progress bars belong to a terminal; in a log file they are rubbish."""
    import diffusers
    import transformers

    if not show_progress:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def pick_device(torch: Any, name: str) -> str:
    """The device that a name means here. Raises: ValueError for one that is not here."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if (name.startswith("cuda") and not has_cuda) or (name == "mps" and not has_mps):
        raise ValueError(
            f"--device {name} is not available with this PyTorch ({torch.__version__}); `dianjing doctor` shows what is"
        )
    index = name.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name} does not exist; there are {torch.cuda.device_count()} GPUs")
    return name


def pick_dtype(torch: Any, name: str, device: str) -> Any:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, name)


def call(pipe: Any, request: ImageRequest, seeds: list[int]) -> list[Any]:
    import torch

    wanted = {
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(request.prompt, num_images_per_prompt=len(seeds), generator=generators, **given).images


def record_of(pipe: Any, image: Any, request: ImageRequest, *, seed: int, model: str) -> Record:
    """What was done."""
    size = {"width": image.width, "height": image.height}
    return Record(
        prompt=request.prompt,
        seed=seed,
        settings={**size, "negative_prompt": request.negative_prompt, **run_settings(pipe)},
        model=model,
        version=dianjing.__version__,
    )
