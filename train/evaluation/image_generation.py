"""How well a model draws what it is told, measured against the exact truth of the sticker world.

    python -m dianjing.train.evaluation.image_generation --model sticker --count 200 --out report

Prompts are of combinations of object, background and place that training never shows. Every picture is read back by
matching it against all sprites (dianjing.train.stickers.matching) and judged under GenEval's six names (Ghosh et al.
2023, arXiv 2310.11513) plus the background, Chinese and English apart. Writes report.json and grid.png.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.train.data.images import tile_images
from dianjing.train.stickers import CurriculumStage, StickerSample, StickerWorld
from dianjing.train.stickers.matching import Detection, Detections, SpriteMatcher
from dianjing.train.stickers.scenes import StickerScene

LANGUAGES = ("zh", "en")
GRID_PX = 16
IMAGE_BATCH_SIZE = 16
EPILOG = (
    "Clips and clicks: python -m dianjing.train.evaluation.video_generation. Any two folders of films: python -m "
    "dianjing.train.evaluation.compare_videos."
)


def _select_class(detections: Detections, class_id: int) -> list[Detection]:
    return [seen for seen in detections.objects if seen.class_id == class_id]


def _has_all_objects(scene: StickerScene, detections: Detections, classify_colour: Callable[[Detection], int]) -> bool:
    return all(len(_select_class(detections, mention.class_id)) >= mention.count for mention in scene.mentions)


def _has_exact_counts(scene: StickerScene, detections: Detections, classify_colour: Callable[[Detection], int]) -> bool:
    return all(len(_select_class(detections, mention.class_id)) == mention.count for mention in scene.mentions)


def _has_colours(scene: StickerScene, detections: Detections, classify_colour: Callable[[Detection], int]) -> bool:
    """Every mention is matched by an object of its kind in its colour, each object used once."""
    left = list(detections.objects)
    for mention in scene.mentions:
        match = next((s for s in left if s.class_id == mention.class_id and classify_colour(s) == mention.colour), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _has_relative_position(
    scene: StickerScene, detections: Detections, classify_colour: Callable[[Detection], int]
) -> bool:
    """Some first object is on the asked side of some second one by a tenth of their size, as in GenEval."""
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[scene.relation or "left"]
    first, second = (_select_class(detections, mention.class_id) for mention in scene.mentions)
    return any(
        a is not b and sign * (a.center[axis] - b.center[axis]) > (a.size_px + b.size_px) / 20
        for a in first
        for b in second
    )


@dataclass(frozen=True, kw_only=True)
class PromptCategory:
    """A kind of prompt and what its picture must show."""

    name: str
    scene_type: str
    accepts: Callable[[StickerScene], bool]
    is_correct: Callable[[StickerScene, Detections, Callable[[Detection], int]], bool]


def _has_no_colours(scene: StickerScene) -> bool:
    return all(mention.colour is None for mention in scene.mentions)


def _has_only_coloured(scene: StickerScene) -> bool:
    return all(mention.colour is not None for mention in scene.mentions)


def _has_distinct_classes(scene: StickerScene) -> bool:
    return len({mention.class_id for mention in scene.mentions}) == len(scene.mentions)


CATEGORIES = (
    PromptCategory(name="single_object", scene_type="single", accepts=_has_no_colours, is_correct=_has_all_objects),
    PromptCategory(name="two_object", scene_type="pair", accepts=_has_no_colours, is_correct=_has_all_objects),
    PromptCategory(name="counting", scene_type="count", accepts=lambda scene: True, is_correct=_has_exact_counts),
    PromptCategory(name="colors", scene_type="single", accepts=_has_only_coloured, is_correct=_has_colours),
    PromptCategory(
        name="position",
        scene_type="pair",
        accepts=lambda s: s.relation is not None and _has_distinct_classes(s),
        is_correct=_has_relative_position,
    ),
    PromptCategory(name="color_attr", scene_type="pair", accepts=_has_only_coloured, is_correct=_has_colours),
)


def sample_held_out(category: PromptCategory, *, num_samples: int, seed: int, size_px: int) -> list[StickerSample]:
    """The first `count_` samples of a category, from combinations that training never shows."""
    stage = CurriculumStage(scene_weights={category.scene_type: 1.0}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    drawn: Iterator[StickerSample] = (world.get_image_sample(seed, position) for position in count())
    wanted = (sample for sample in drawn if category.accepts(sample.scene))
    return [sample for sample, _ in zip(wanted, range(num_samples), strict=False)]


def image_to_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W) on [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


ImageGenerator = Callable[[Sequence[str], Sequence[int]], list[np.ndarray]]  # prompts and seeds to uint8 pictures


def make_image_generator(pipeline: Any, *, size_px: int, **settings: Any) -> ImageGenerator:
    """Draw with a text-to-image pipeline, one seed a picture."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = pipeline(
            list(prompts), height=size_px, width=size_px, generator=generators, output_type="np", **settings
        ).images
        return list((pictures * 255).round().astype(np.uint8))

    return draw


def evaluate_images(
    samples: Sequence[StickerSample], images: Sequence[np.ndarray], category: PromptCategory, matcher: SpriteMatcher
) -> dict:
    """How many of the pictures show what their samples ask for, and how many have the right background."""
    right = backgrounds = 0
    for sample, picture in zip(samples, images, strict=True):
        pixels = image_to_tensor(picture)
        reading = matcher.detect(pixels)
        right += category.is_correct(sample.scene, reading, partial(matcher.classify_colour, pixels))
        backgrounds += reading.background == sample.scene.background
    return {"right": right, "background": backgrounds, "count": len(samples)}


CategoryResult = tuple[dict[str, dict], list[np.ndarray]]  # counts of each column, and pictures for the grid


def evaluate_category(
    category: PromptCategory, generate: ImageGenerator, matcher: SpriteMatcher, *, num_samples: int, seed: int
) -> CategoryResult:
    """One category in both languages. "ceiling" is the truth itself, read by the same matcher."""
    samples = sample_held_out(category, num_samples=num_samples, seed=seed, size_px=matcher.size_px)
    counts = {"ground_truth": evaluate_images(samples, [s.image for s in samples], category, matcher)}
    shown: list[np.ndarray] = []
    bar = tqdm(total=len(LANGUAGES) * num_samples, desc=category.name, unit="picture")
    for language in LANGUAGES:
        prompts = [getattr(sample, f"text_{language}") for sample in samples]
        pictures: list[np.ndarray] = []
        for first in range(0, len(prompts), IMAGE_BATCH_SIZE):
            part = slice(first, first + IMAGE_BATCH_SIZE)
            pictures += generate(prompts[part], range(seed + first, seed + first + len(prompts[part])))
            bar.update(len(prompts[part]))
        counts[language] = evaluate_images(samples, pictures, category, matcher)
        shown += pictures[:8]
    bar.close()
    return counts, shown


def evaluate_image_generation(
    generate: ImageGenerator,
    matcher: SpriteMatcher,
    *,
    num_samples: int,
    seed: int,
    categories: Sequence[PromptCategory] = CATEGORIES,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Figures of every category and language, and eight pictures of each for a grid.

    The rates named "ceiling" are those of the truth itself, read by the same matcher: what a perfect model would reach.
    """
    judged = [
        evaluate_category(category, generate, matcher, num_samples=num_samples, seed=seed) for category in categories
    ]
    return make_image_report([category.name for category in categories], judged)


def make_image_report(
    names: Sequence[str], category_results: Sequence[CategoryResult]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    results = {name: counts for name, (counts, _) in zip(names, category_results, strict=True)}
    return summarize_counts(results), [picture for _, shown in category_results for picture in shown]


def summarize_counts(results: dict[str, Any]) -> dict[str, Any]:
    """Counts to rates: one a category and language, the background over all, and the gap between the languages."""
    columns = (*LANGUAGES, "ground_truth")

    def rate(key: str, column: str, names: Sequence[str]) -> float:
        parts = [results[name][column] for name in names]
        return round(sum(part[key] for part in parts) / sum(part["count"] for part in parts), 4)

    names = list(results)
    report: dict[str, Any] = {name: {c: rate("right", c, [name]) for c in columns} for name in names}
    report["background"] = {c: rate("background", c, names) for c in columns}
    report["overall"] = {c: rate("right", c, names) for c in columns}
    report["language_gap_points"] = round(100 * abs(report["overall"]["zh"] - report["overall"]["en"]), 2)
    report["prompts_per_language"] = {name: results[name]["zh"]["count"] for name in names}
    return report


@cache
def _load_evaluator(
    model: str, device: str, steps: int | None, guidance: float | None
) -> tuple[ImageGenerator, SpriteMatcher]:
    """Loaded once a process."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipeline = TextToImagePipeline.from_pretrained(model).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size_px = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    draw = make_image_generator(pipeline, size_px=size_px, num_inference_steps=steps, guidance_scale=guidance)
    return draw, SpriteMatcher(size_px=size_px, device=device)


def _evaluate_category_in_process(index: int, arguments: argparse.Namespace) -> CategoryResult:
    if arguments.processes > 1:
        torch.set_num_threads(1)
    draw, matcher = _load_evaluator(arguments.model, arguments.device, arguments.steps, arguments.guidance)
    return evaluate_category(CATEGORIES[index], draw, matcher, num_samples=arguments.count, seed=arguments.seed)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.image_generation", description=__doc__.split("\n")[0], epilog=EPILOG
    )
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--count", type=int, default=200, help="prompts a category and language (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, default=None, help="guidance scale (default: the model's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, a category at a time")
    parser.add_argument("--out", type=Path, default=Path("report"))
    given = parser.parse_args()

    work = partial(_evaluate_category_in_process, arguments=given)
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            judged = list(pool.map(work, range(len(CATEGORIES))))
    else:
        judged = list(map(work, range(len(CATEGORIES))))
    report, shown = make_image_report([category.name for category in CATEGORIES], judged)
    report |= {"model": given.model, "seed": given.seed, "num_inference_steps": given.steps}
    report["guidance_scale"] = given.guidance
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Image.fromarray(tile_images(torch.from_numpy(np.stack(shown)), columns=16)).save(given.out / "grid.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
