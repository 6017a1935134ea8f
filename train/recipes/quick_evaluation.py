"""Rough figures of a model within a given time, by the judges of `dianjing.train.evaluate`."""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.train.evaluate import CATEGORIES, Drawer, judge_category, pipeline_drawer, summary
from dianjing.train.pictures import tile
from dianjing.train.recipes.packing import write_json
from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.matching import MAX_READ_PX, SIZES_PX, Matcher, looks
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.weights.sums import write_sums

ROUND_COUNT = 4  # prompts of a category and language in one round
GRID_PX = 128  # side of a picture in the grid
REPORT_NAME = "quick_report.json"


def evaluate_within(source: Path, target: Path, *, seconds: float, device: str) -> dict[str, Any]:
    """Copy a bundle to `target` with REPORT_NAME and grid.png beside its weights; returns the figures.

    Rounds of new prompts go on until the time is over; a round that would not fit is not begun.
    """
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    started = time.perf_counter()
    pipeline = TextToImagePipeline.from_pretrained(source).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size_px = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    draw = pipeline_drawer(pipeline, size_px=size_px, num_inference_steps=None, guidance_scale=None)
    matcher = matcher_within(size_px, device, seconds=seconds - (time.perf_counter() - started))
    figures: dict[str, Any] = {}
    shown: list[np.ndarray] = []
    if matcher is not None:
        figures, shown = judge_within(draw, matcher, seconds=seconds - (time.perf_counter() - started))
    partial = target.with_name(f"{target.name}.partial")
    shutil.copytree(source, partial)
    write_json(partial / REPORT_NAME, figures)
    if shown:
        _save_grid(shown, partial / "grid.png")
    write_sums(partial)
    partial.rename(target)
    return figures


def matcher_within(size_px: int, device: str, *, seconds: float) -> Matcher | None:
    """A matcher, or None where its sprites alone take more than half of the time; what it makes of them is quicker."""
    started = time.perf_counter()
    for side_px in (side * min(size_px, MAX_READ_PX) // CANVAS_PX for side in SIZES_PX):
        for thing, colour in looks():
            if time.perf_counter() - started > seconds / 2:
                return None
            sprite(thing, size_px=side_px, colour=colour)  # kept in its cache
    return Matcher.for_pictures(size_px, device)


def judge_within(draw: Drawer, matcher: Matcher, *, seconds: float) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Figures of all categories, in rounds of new prompts, and the pictures of the first round.

    What takes longer than the time left, by the longest so far, is not begun; without a round of all there are none.
    """
    started, longest_s, seed = time.perf_counter(), 0.0, 0
    results: dict[str, dict[str, Counter]] = {}
    shown: list[np.ndarray] = []
    while True:
        for category in CATEGORIES:
            begun = time.perf_counter()
            if begun - started + longest_s >= seconds:
                return (summary(results) if len(results) == len(CATEGORIES) else {}), shown
            counts, pictures = judge_category(category, draw, matcher, count=ROUND_COUNT, seed=seed)
            columns = results.setdefault(category.name, {})
            for column, found in counts.items():
                columns.setdefault(column, Counter()).update(found)
            shown += pictures if seed == 0 else []
            longest_s = max(longest_s, time.perf_counter() - begun)
        seed += ROUND_COUNT


def _save_grid(pictures: list[np.ndarray], path: Path) -> None:
    small = [np.asarray(Image.fromarray(each).resize((GRID_PX, GRID_PX), Image.Resampling.BOX)) for each in pictures]
    Image.fromarray(tile(torch.from_numpy(np.stack(small)), columns=16)).save(path)
