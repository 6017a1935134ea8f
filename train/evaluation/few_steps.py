"""Comparison of a model's adapter for few steps with the model alone: the same prompts and seeds, right or wrong.

    python -m dianjing.train.evaluation.few_steps --model sticker --count 500 --out report

Prompts and rows are those of dianjing.train.evaluation.image_generation. A call by each is timed in turn. Writes
few_steps.json.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dianjing.errors import DianjingError
from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    IMAGE_BATCH_SIZE,
    ImageGenerator,
    PromptCategory,
    image_to_tensor,
    make_image_generator,
    sample_held_out,
)
from dianjing.train.evaluation.settings import (
    LANGUAGES,
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    map_in_processes,
    parse_evaluation_settings,
)
from dianjing.train.stickers import StickerSample
from dianjing.train.stickers.matching import SpriteMatcher

NUM_TIMED_PAIRS = 10
TIMED_PROMPT = "草地上的一只小猫"
VARIANTS = ("few", "slow")  # with the adapter and without
Verdicts = dict[str, list[bool]]  # by variant: whether each image shows what its prompt asks for


def check_images(
    samples: Sequence[StickerSample],
    generate: ImageGenerator,
    category: PromptCategory,
    matcher: SpriteMatcher,
    *,
    language: str,
    seed: int,
) -> list[bool]:
    """Generate an image of each sample, and return which of them are right. seed: of the first image."""
    verdicts = []
    for start in range(0, len(samples), IMAGE_BATCH_SIZE):
        batch = samples[start : start + IMAGE_BATCH_SIZE]
        prompts = [getattr(sample, f"text_{language}") for sample in batch]
        images = generate(prompts, range(seed + start, seed + start + len(batch)))
        for sample, image in zip(batch, images, strict=True):
            pixels = image_to_tensor(image)
            classify = partial(matcher.classify_colour, pixels)
            verdicts.append(category.is_correct(sample.scene, matcher.detect(pixels), classify))
    return verdicts


def summarize_pairs(rows: dict[str, Verdicts]) -> dict[str, Any]:
    """Compare the variants by row and over all: rates, points lost, and images that one variant alone has right."""
    overall = {variant: [verdict for row in rows.values() for verdict in row[variant]] for variant in VARIANTS}
    report: dict[str, Any] = {}
    for name, verdicts in {**rows, "overall": overall}.items():
        pairs = list(zip(verdicts["few"], verdicts["slow"], strict=True))
        rates = {variant: sum(verdicts[variant]) / len(pairs) for variant in VARIANTS}
        report[name] = {
            "few": round(rates["few"], 4),
            "slow": round(rates["slow"], 4),
            "points_lost": round(100 * (rates["slow"] - rates["few"]), 2),
            "few_alone": sum(few and not slow for few, slow in pairs),
            "slow_alone": sum(slow and not few for few, slow in pairs),
            "count": len(pairs),
        }
    return report


@cache
def _load_evaluator(settings: EvaluationSettings) -> tuple[Any, Any, SpriteMatcher]:
    """Load the pipeline of each variant, over one transformer, and the matcher, once per process."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipelines = [settings.prepare(TextToImagePipeline.from_pretrained(settings.model))]
    if pipelines[0].default_adapter is None:
        raise DianjingError("no_default_adapter", model=settings.model)
    pipelines.append(replace(settings, is_slow=True).prepare(TextToImagePipeline.from_pipe(pipelines[0])))
    return (*pipelines, SpriteMatcher.for_images(pipelines[0].default_size_px, settings.device))


def _compare_category(index: int, *, settings: EvaluationSettings) -> Verdicts:
    few, slow, matcher = _load_evaluator(settings)
    category, seed = CATEGORIES[index], settings.seed
    samples = sample_held_out(category, num_samples=settings.num_samples, seed=seed, size_px=matcher.size_px)
    verdicts: Verdicts = {variant: [] for variant in VARIANTS}
    for variant, pipeline in zip(VARIANTS, (few, slow), strict=True):
        generate = make_image_generator(pipeline, size_px=pipeline.default_size_px)
        for language in LANGUAGES:
            verdicts[variant] += check_images(samples, generate, category, matcher, language=language, seed=seed)
    return verdicts


def time_pairs(settings: EvaluationSettings) -> dict[str, float]:
    """Time an image of each variant in turn: the median seconds, and the median of the quotients of neighbours."""
    few, slow, _ = _load_evaluator(settings)
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(NUM_TIMED_PAIRS + 1):  # the first is not counted
        for variant, pipeline in zip(VARIANTS, (few, slow), strict=True):
            start = time.perf_counter()
            pipeline(TIMED_PROMPT, generator=torch.Generator().manual_seed(settings.seed))  # an image in memory
            seconds[variant].append(time.perf_counter() - start)
    quotients = [slow_s / few_s for few_s, slow_s in zip(seconds["few"][1:], seconds["slow"][1:], strict=True)]
    medians = {f"{variant}_s": round(median(seconds[variant][1:]), 4) for variant in VARIANTS}
    return {**medians, "times_as_fast": round(median(quotients), 2)}


def write_few_steps_report(settings: EvaluationSettings, out: Path) -> None:
    """Compare both variants on all categories, write the report, and print it."""
    timing = time_pairs(settings)
    compare = partial(_compare_category, settings=settings)
    results = list(map_in_processes(compare, range(len(CATEGORIES)), num_processes=settings.num_processes))
    rows = {category.name: verdicts for category, verdicts in zip(CATEGORIES, results, strict=True)}
    report = summarize_pairs(rows) | {"timing": timing, "model": settings.model, "seed": settings.seed}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1) + "\n"
    (out / "few_steps.json").write_text(text, encoding="utf-8")
    print(text)


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.few_steps",
        description=(__doc__ or "").split("\n")[0],
        default_count=200,
        count_help="prompts per category and language",
    )
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_few_steps_report(parse_evaluation_settings(arguments), arguments.out)


if __name__ == "__main__":
    _main()
