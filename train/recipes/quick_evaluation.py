"""Rough figures of a model within a given time, from dianjing.train.evaluation.image_generation."""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    ImageGenerator,
    evaluate_category,
    make_image_generator,
    summarize_counts,
)
from dianjing.train.recipes.packing import write_json
from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.matching import MAX_SIZE_PX, SIZES_PX, SpriteMatcher, list_template_keys
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.weights.checksums import write_checksums

SAMPLES_PER_ROUND = 4  # prompts of a category and language
PREVIEW_PX = 128  # side of an image in grid.png
REPORT_NAME = "quick_report.json"


def evaluate_within(source: Path, target: Path, *, seconds: float, device: str) -> dict[str, Any]:
    """Copy a bundle to `target`, and add REPORT_NAME and grid.png; return the figures.

    Rounds of new prompts are evaluated until the time is over; a round that would not fit is not started.
    """
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    started = time.perf_counter()
    pipeline = TextToImagePipeline.from_pretrained(source).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size_px = pipeline.default_size_px
    generate = make_image_generator(pipeline, size_px=size_px, num_inference_steps=None, guidance_scale=None)
    matcher = make_matcher_within(size_px, device, seconds=seconds - (time.perf_counter() - started))
    figures: dict[str, Any] = {}
    preview: list[np.ndarray] = []
    if matcher is not None:
        remaining_s = seconds - (time.perf_counter() - started)
        figures, preview = evaluate_categories_within(generate, matcher, seconds=remaining_s)
    partial = target.with_name(f"{target.name}.partial")
    shutil.copytree(source, partial)
    write_json(partial / REPORT_NAME, figures)
    if preview:
        _save_grid(preview, partial / "grid.png")
    write_checksums(partial)
    partial.rename(target)
    return figures


def make_matcher_within(size_px: int, device: str, *, seconds: float) -> SpriteMatcher | None:
    """Make a matcher for images of `size_px`; None if its sprites alone take more than half of the time."""
    started = time.perf_counter()
    for sprite_px in (side * min(size_px, MAX_SIZE_PX) // CANVAS_PX for side in SIZES_PX):
        for class_id, colour in list_template_keys():
            if time.perf_counter() - started > seconds / 2:
                return None
            get_sprite(class_id, size_px=sprite_px, colour=colour)  # stays in its cache
    return SpriteMatcher.for_images(size_px, device)


def evaluate_categories_within(
    generate: ImageGenerator, matcher: SpriteMatcher, *, seconds: float
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Evaluate all categories in rounds of new prompts; return the figures and the images of the first round.

    A category is not started if the longest one so far would not fit in the time left; without a complete first round
    there are no figures.
    """
    started, longest_s, seed = time.perf_counter(), 0.0, 0
    counts: dict[str, dict[str, Counter]] = {}
    preview: list[np.ndarray] = []
    while True:
        for category in CATEGORIES:
            category_start = time.perf_counter()
            if category_start - started + longest_s >= seconds:
                return (summarize_counts(counts) if len(counts) == len(CATEGORIES) else {}), preview
            new_counts, images = evaluate_category(
                category, generate, matcher, num_samples=SAMPLES_PER_ROUND, seed=seed
            )
            columns = counts.setdefault(category.name, {})
            for column, cell in new_counts.items():
                columns.setdefault(column, Counter()).update(cell)
            preview += images if seed == 0 else []
            longest_s = max(longest_s, time.perf_counter() - category_start)
        seed += SAMPLES_PER_ROUND


def _save_grid(images: list[np.ndarray], path: Path) -> None:
    size = (PREVIEW_PX, PREVIEW_PX)
    resized = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BOX)) for each in images]
    Image.fromarray(tile_images(torch.from_numpy(np.stack(resized)), columns=16)).save(path)
