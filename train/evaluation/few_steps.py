"""Comparison of a model's adapter for few steps with the model alone: the same prompts and seeds, right or wrong.

    python -m dianjing.train.evaluation.few_steps --model sticker --count 500 --out report

Prompts and rows are those of dianjing.train.evaluation.image_generation; further rows are the prompts that call an
object small, and those of each language. A call by each is timed in turn. Writes few_steps.json.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm

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

CHUNK_SIZE = 4 * IMAGE_BATCH_SIZE  # images of each variant between two steps of the progress bar
NUM_TIMED_PAIRS = 10
TIMED_PROMPT = "草地上的一只小猫"


@dataclass(frozen=True)
class PairedResult:
    """A prompt with whether each variant's image shows what it asks for: with the adapter, and the model alone.

    is_small: whether the prompt calls an object small.
    """

    category: str
    language: str
    is_small: bool
    few: bool
    slow: bool


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


def summarize_pairs(results: Sequence[PairedResult]) -> dict[str, dict[str, Any]]:
    """Compare the variants by row and over all: rates, points lost, and images that one variant alone has right.

    Rows are the categories, "small_objects", the languages and "overall"; a row without images is left out.
    """
    rows: dict[str, list[PairedResult]] = {category.name: [] for category in CATEGORIES}
    rows |= {name: [] for name in ("small_objects", *LANGUAGES)}
    for each in results:
        names = (each.category, each.language, *(["small_objects"] if each.is_small else []))
        for name in names:
            rows[name].append(each)
    rows["overall"] = list(results)
    return {name: _summarize_row(row) for name, row in rows.items() if row}


def _summarize_row(row: Sequence[PairedResult]) -> dict[str, Any]:
    few, slow = (sum(verdicts) / len(row) for verdicts in zip(*((each.few, each.slow) for each in row), strict=True))
    return {
        "few": round(few, 4),
        "slow": round(slow, 4),
        "points_lost": round(100 * (slow - few), 2),
        "few_alone": sum(each.few and not each.slow for each in row),
        "slow_alone": sum(each.slow and not each.few for each in row),
        "count": len(row),
    }


@cache
def _load_evaluator(settings: EvaluationSettings) -> tuple[Any, Any, SpriteMatcher]:
    """Load the pipeline of each variant, over one transformer, and the matcher, once per process."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipelines = [settings.prepare(TextToImagePipeline.from_pretrained(settings.model))]
    if pipelines[0].default_adapter is None:
        raise DianjingError("no_default_adapter", model=settings.model)
    pipelines.append(replace(settings, is_slow=True).prepare(TextToImagePipeline.from_pipe(pipelines[0])))
    return (*pipelines, SpriteMatcher.for_images(pipelines[0].default_size_px, settings.device))


@cache
def _sample_category(index: int, settings: EvaluationSettings) -> list[StickerSample]:
    size_px = _load_evaluator(settings)[-1].size_px
    return sample_held_out(CATEGORIES[index], num_samples=settings.num_samples, seed=settings.seed, size_px=size_px)


def _compare_chunk(chunk: tuple[int, str, int], *, settings: EvaluationSettings) -> list[PairedResult]:
    """Compare both variants by CHUNK_SIZE samples of a category, in one language, from a position on."""
    index, language, first = chunk
    few, slow, matcher = _load_evaluator(settings)
    category, samples = CATEGORIES[index], _sample_category(index, settings)[first : first + CHUNK_SIZE]
    few_verdicts, slow_verdicts = (
        check_images(
            samples,
            make_image_generator(pipeline, size_px=pipeline.default_size_px),
            category,
            matcher,
            language=language,
            seed=settings.seed + first,
        )
        for pipeline in (few, slow)
    )
    is_small = [any(mention.size == "small" for mention in sample.scene.mentions) for sample in samples]
    verdicts = zip(is_small, few_verdicts, slow_verdicts, strict=True)
    return [PairedResult(category.name, language, *each) for each in verdicts]


def time_pairs(settings: EvaluationSettings) -> dict[str, float]:
    """Time an image of each variant in turn: the median seconds, and the median of the quotients of neighbours."""
    few, slow, _ = _load_evaluator(settings)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(NUM_TIMED_PAIRS + 1):
        for pipeline, times in zip((few, slow), seconds, strict=True):
            start = time.perf_counter()
            pipeline(TIMED_PROMPT, generator=torch.Generator().manual_seed(settings.seed))  # an image in memory
            times.append(time.perf_counter() - start)
    few_s, slow_s = (times[1:] for times in seconds)  # the first includes planning
    quotients = [slow_one / few_one for few_one, slow_one in zip(few_s, slow_s, strict=True)]
    return {
        "few_s": round(median(few_s), 4),
        "slow_s": round(median(slow_s), 4),
        "times_as_fast": round(median(quotients), 2),
    }


def write_few_steps_report(settings: EvaluationSettings, out: Path) -> None:
    """Compare both variants on all categories, write the report, and print it."""
    timing = time_pairs(settings)
    chunks = list(product(range(len(CATEGORIES)), LANGUAGES, range(0, settings.num_samples, CHUNK_SIZE)))
    compare = partial(_compare_chunk, settings=settings)
    pairs = map_in_processes(compare, chunks, num_processes=settings.num_processes)
    results = [each for chunk in tqdm(pairs, total=len(chunks), unit="chunk") for each in chunk]
    report: dict[str, Any] = summarize_pairs(results)
    report |= {"timing": timing, "model": settings.model, "seed": settings.seed}
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
