"""Evaluation of text-to-image generation against the exact ground truth of the sticker world.

    python -m dianjing.train.evaluation.image_generation --model sticker --count 200 --out report

Prompts are of held-out combinations of object, background and cell. Every image is read back by template matching
(dianjing.train.stickers.matching) and evaluated under GenEval's six categories (Ghosh et al. 2023, arXiv 2310.11513)
and for its background, Chinese and English apart. Writes report.json and grid.webp.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.settings import (
    COLUMNS,
    GRID_FORMAT,
    GRID_PX,
    GROUND_TRUTH,
    LANGUAGES,
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    map_in_processes,
    parse_evaluation_settings,
)
from dianjing.train.stickers import CurriculumStage, StickerSample, StickerWorld
from dianjing.train.stickers.matching import Detection, Detections, SpriteMatcher
from dianjing.train.stickers.rendering import render_scene
from dianjing.train.stickers.scenes import StickerScene

IMAGE_BATCH_SIZE = 16
NUM_PREVIEW_IMAGES = 8  # per category and language, in grid.webp
EPILOG = (
    "Videos and motion control: python -m dianjing.train.evaluation.video_generation. "
    "Any two folders of videos: python -m dianjing.train.evaluation.compare_videos."
)

ClassifyColour = Callable[[Detection], int]  # the colour (an index of COLOURS) of a detected object
ImageGenerator = Callable[[Sequence[str], Sequence[int]], list[np.ndarray]]  # prompts, seeds -> uint8 (H, W, 3) each
ImageCounts = dict[str, int]  # "correct", "background" (correct backgrounds) and "count" (all images)
CategoryResult = tuple[dict[str, ImageCounts], list[np.ndarray]]  # counts of each column; images for the grid


def _select_class(detections: Detections, class_id: int) -> list[Detection]:
    return [each for each in detections.objects if each.class_id == class_id]


def _has_all_objects(scene: StickerScene, detections: Detections, classify_colour: ClassifyColour) -> bool:
    return all(len(_select_class(detections, mention.class_id)) >= mention.count for mention in scene.mentions)


def _has_exact_counts(scene: StickerScene, detections: Detections, classify_colour: ClassifyColour) -> bool:
    return all(len(_select_class(detections, mention.class_id)) == mention.count for mention in scene.mentions)


def _has_colours(scene: StickerScene, detections: Detections, classify_colour: ClassifyColour) -> bool:
    """Check that every mention matches an object of its class in its colour, each object used once."""
    remaining = list(detections.objects)
    for mention in scene.mentions:
        candidates = (each for each in remaining if each.class_id == mention.class_id)
        match = next((each for each in candidates if classify_colour(each) == mention.colour), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _has_relative_position(scene: StickerScene, detections: Detections, classify_colour: ClassifyColour) -> bool:
    """Check that a first object is on the requested side of a second one by a tenth of their size, as in GenEval."""
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[scene.relation or "left"]
    first, second = (_select_class(detections, mention.class_id) for mention in scene.mentions)
    return any(
        a is not b and sign * (a.center[axis] - b.center[axis]) > (a.size_px + b.size_px) / 20
        for a in first
        for b in second
    )


def _has_no_colours(scene: StickerScene) -> bool:
    return all(mention.colour is None for mention in scene.mentions)


def _has_only_coloured(scene: StickerScene) -> bool:
    return all(mention.colour is not None for mention in scene.mentions)


def _has_relation(scene: StickerScene) -> bool:
    return scene.relation is not None and len({mention.class_id for mention in scene.mentions}) == len(scene.mentions)


@dataclass(frozen=True, kw_only=True)
class PromptCategory:
    """A category of prompts: the scenes that belong to it, and the check that their images must pass."""

    name: str
    scene_type: str
    accepts: Callable[[StickerScene], bool]
    is_correct: Callable[[StickerScene, Detections, ClassifyColour], bool]


CATEGORIES = (
    PromptCategory(name="single_object", scene_type="single", accepts=_has_no_colours, is_correct=_has_all_objects),
    PromptCategory(name="two_object", scene_type="pair", accepts=_has_no_colours, is_correct=_has_all_objects),
    PromptCategory(name="counting", scene_type="count", accepts=lambda scene: True, is_correct=_has_exact_counts),
    PromptCategory(name="colors", scene_type="single", accepts=_has_only_coloured, is_correct=_has_colours),
    PromptCategory(name="position", scene_type="pair", accepts=_has_relation, is_correct=_has_relative_position),
    PromptCategory(name="color_attr", scene_type="pair", accepts=_has_only_coloured, is_correct=_has_colours),
)


def sample_held_out(category: PromptCategory, *, num_samples: int, seed: int, size_px: int) -> list[StickerSample]:
    """Return the first `num_samples` samples of a category, from combinations that training never shows."""
    stage = CurriculumStage(scene_weights={category.scene_type: 1.0}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    samples: Iterator[StickerSample] = (world.get_image_sample(seed, position) for position in count())
    return list(islice((sample for sample in samples if category.accepts(sample.scene)), num_samples))


def image_to_tensor(image: np.ndarray) -> Tensor:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) on [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def make_image_generator(pipeline: Any, *, size_px: int, **settings: Any) -> ImageGenerator:
    """Make a generator of images of one size from a text-to-image pipeline, with one seed per image."""

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = pipeline(
            list(prompts), height=size_px, width=size_px, generator=generators, output_type="np", **settings
        ).images
        return list((images * 255).round().astype(np.uint8))

    return generate


def evaluate_images(
    samples: Sequence[StickerSample], images: Sequence[np.ndarray], category: PromptCategory, matcher: SpriteMatcher
) -> ImageCounts:
    """Count the images (uint8 (H, W, 3)) that show what their samples request, and those with the right background."""
    correct = backgrounds = 0
    for sample, image in zip(samples, images, strict=True):
        pixels = image_to_tensor(image)
        detections = matcher.detect(pixels)
        correct += category.is_correct(sample.scene, detections, partial(matcher.classify_colour, pixels))
        backgrounds += detections.background == sample.scene.background
    return {"correct": correct, "background": backgrounds, "count": len(samples)}


def evaluate_category(
    category: PromptCategory, generate: ImageGenerator, matcher: SpriteMatcher, *, num_samples: int, seed: int
) -> CategoryResult:
    """Evaluate one category in both languages.

    The column "ground_truth" is the samples themselves, rendered at the size of the generated images.
    """
    samples = sample_held_out(category, num_samples=num_samples, seed=seed, size_px=matcher.size_px)
    counts: dict[str, ImageCounts] = {}
    preview: list[np.ndarray] = []
    with tqdm(total=len(LANGUAGES) * num_samples, desc=category.name, unit="image") as bar:
        for language in LANGUAGES:
            prompts = [getattr(sample, f"text_{language}") for sample in samples]
            images: list[np.ndarray] = []
            for start in range(0, len(prompts), IMAGE_BATCH_SIZE):
                batch = prompts[start : start + IMAGE_BATCH_SIZE]
                images += generate(batch, range(seed + start, seed + start + len(batch)))
                bar.update(len(batch))
            counts[language] = evaluate_images(samples, images, category, matcher)
            preview += images[:NUM_PREVIEW_IMAGES]
    true_images = [render_scene(sample.scene, size_px=len(images[0])) for sample in samples]
    counts[GROUND_TRUTH] = evaluate_images(samples, true_images, category, matcher)
    return counts, preview


def evaluate_image_generation(
    generate: ImageGenerator,
    matcher: SpriteMatcher,
    *,
    num_samples: int,
    seed: int,
    categories: Sequence[PromptCategory] = CATEGORIES,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Evaluate every category and language; return the report and NUM_PREVIEW_IMAGES images of each for a grid.

    The column "ground_truth" holds the rates of the samples themselves: the ceiling of a perfect model.
    """
    results = [
        evaluate_category(category, generate, matcher, num_samples=num_samples, seed=seed) for category in categories
    ]
    return make_image_report([category.name for category in categories], results)


def make_image_report(
    names: Sequence[str], category_results: Sequence[CategoryResult]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Combine the results of categories into a report and the images of the grid."""
    counts = {name: counts for name, (counts, _) in zip(names, category_results, strict=True)}
    return summarize_counts(counts), [image for _, preview in category_results for image in preview]


def summarize_counts(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    """Convert counts (category -> column -> ImageCounts) to rates.

    Returns: the rate of each category and column, "background" and "overall" over all categories, the gap between the
    languages in percentage points, and the number of prompts.
    """

    def get_rate(key: str, column: str, names: Sequence[str]) -> float:
        cells = [counts[name][column] for name in names]
        return round(sum(cell[key] for cell in cells) / sum(cell["count"] for cell in cells), 4)

    names = list(counts)
    report: dict[str, Any] = {name: {c: get_rate("correct", c, [name]) for c in COLUMNS} for name in names}
    report["background"] = {c: get_rate("background", c, names) for c in COLUMNS}
    report["overall"] = {c: get_rate("correct", c, names) for c in COLUMNS}
    report["language_gap_points"] = round(100 * abs(report["overall"]["zh"] - report["overall"]["en"]), 2)
    report["prompts_per_language"] = {name: counts[name]["zh"]["count"] for name in names}
    return report


@cache
def _load_evaluator(settings: EvaluationSettings) -> tuple[ImageGenerator, SpriteMatcher]:
    """Load the model and the matcher, once per process."""
    from dianjing.pipelines.schedulers import load_adapter_scheduler
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipeline: Any = settings.prepare(TextToImagePipeline.from_pretrained(settings.model))
    if settings.lora is not None:
        pipeline.load_lora_weights(settings.lora)
        pipeline.scheduler = load_adapter_scheduler(settings.lora) or pipeline.scheduler
    size_px = pipeline.default_size_px
    generate = make_image_generator(pipeline, size_px=size_px, **settings.generation_settings)
    return generate, SpriteMatcher.for_images(size_px, settings.device)


def _evaluate_category_in_process(index: int, *, settings: EvaluationSettings) -> CategoryResult:
    generate, matcher = _load_evaluator(settings)
    return evaluate_category(CATEGORIES[index], generate, matcher, num_samples=settings.num_samples, seed=settings.seed)


def write_image_report(settings: EvaluationSettings, out: Path) -> None:
    """Evaluate all categories, write the report and a grid of images to a folder, and print the report."""
    evaluate = partial(_evaluate_category_in_process, settings=settings)
    results = list(map_in_processes(evaluate, range(len(CATEGORIES)), num_processes=settings.num_processes))
    report, preview = make_image_report([category.name for category in CATEGORIES], results)
    report |= {"model": settings.model, "seed": settings.seed, **settings.generation_settings}
    report |= {"slow": True} if settings.is_slow else {}
    if settings.lora is not None:
        report["lora"] = settings.lora
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Image.fromarray(tile_images(torch.from_numpy(np.stack(preview)), columns=16)).save(out / "grid.webp", **GRID_FORMAT)
    print(json.dumps(report, indent=1))


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.image_generation",
        description=__doc__.split("\n")[0],
        default_count=200,
        count_help="prompts per category and language",
        epilog=EPILOG,
    )
    parser.add_argument("--lora", help="folder of an adapter that was trained here, with its scheduler")
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_image_report(replace(parse_evaluation_settings(arguments), lora=arguments.lora), arguments.out)


if __name__ == "__main__":
    _main()
