"""How well a model draws what it is told, measured against the exact truth of the sticker world.

    python -m dianjing.train.evaluate --model sticker --count 200 --out report

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

from dianjing.train.pictures import tile
from dianjing.train.stickers import Sample, Stage, World
from dianjing.train.stickers.matching import Matcher, Reading, Seen
from dianjing.train.stickers.scenes import Scene

LANGUAGES = ("zh", "en")
SNAP_PX = 16
BATCH = 16
OTHERS = (
    "Clips and clicks: python -m dianjing.train.evaluate_clips. Any two folders of films: python -m "
    "dianjing.train.compare_clips."
)


def _found(reading: Reading, thing: int) -> list[Seen]:
    return [seen for seen in reading.objects if seen.thing == thing]


def _shows_all(scene: Scene, reading: Reading, colour_of: Callable[[Seen], int]) -> bool:
    return all(len(_found(reading, mention.thing)) >= mention.count for mention in scene.mentions)


def _counts_right(scene: Scene, reading: Reading, colour_of: Callable[[Seen], int]) -> bool:
    return all(len(_found(reading, mention.thing)) == mention.count for mention in scene.mentions)


def _colours_right(scene: Scene, reading: Reading, colour_of: Callable[[Seen], int]) -> bool:
    """Every mention is matched by an object of its kind in its colour, each object used once."""
    left = list(reading.objects)
    for mention in scene.mentions:
        match = next((s for s in left if s.thing == mention.thing and colour_of(s) == mention.colour), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _position_right(scene: Scene, reading: Reading, colour_of: Callable[[Seen], int]) -> bool:
    """Some first object is on the asked side of some second one by a tenth of their size, as in GenEval."""
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[scene.relation or "left"]
    first, second = (_found(reading, mention.thing) for mention in scene.mentions)
    return any(
        a is not b and sign * (a.centre[axis] - b.centre[axis]) > (a.size_px + b.size_px) / 20
        for a in first
        for b in second
    )


@dataclass(frozen=True, kw_only=True)
class Category:
    """A kind of prompt and what its picture must show."""

    name: str
    kind: str
    asks: Callable[[Scene], bool]
    is_right: Callable[[Scene, Reading, Callable[[Seen], int]], bool]


def _plain(scene: Scene) -> bool:
    return all(mention.colour is None for mention in scene.mentions)


def _coloured(scene: Scene) -> bool:
    return all(mention.colour is not None for mention in scene.mentions)


def _distinct(scene: Scene) -> bool:
    return len({mention.thing for mention in scene.mentions}) == len(scene.mentions)


CATEGORIES = (
    Category(name="single_object", kind="single", asks=_plain, is_right=_shows_all),
    Category(name="two_objects", kind="pair", asks=_plain, is_right=_shows_all),
    Category(name="counting", kind="count", asks=lambda scene: True, is_right=_counts_right),
    Category(name="colours", kind="single", asks=_coloured, is_right=_colours_right),
    Category(
        name="position", kind="pair", asks=lambda s: s.relation is not None and _distinct(s), is_right=_position_right
    ),
    Category(name="colour_attribution", kind="pair", asks=_coloured, is_right=_colours_right),
)


def held_out_samples(category: Category, *, count_: int, seed: int, size_px: int) -> list[Sample]:
    """The first `count_` samples of a category, from combinations that training never shows."""
    stage = Stage(kinds={category.kind: 1.0}, snap_px=(SNAP_PX,))
    world = World(size_px=size_px, stages=[stage], split="held_out")
    drawn: Iterator[Sample] = (world.picture(seed, position) for position in count())
    wanted = (sample for sample in drawn if category.asks(sample.scene))
    return [sample for sample, _ in zip(wanted, range(count_), strict=False)]


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W) on [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


Drawer = Callable[[Sequence[str], Sequence[int]], list[np.ndarray]]  # prompts and seeds to uint8 pictures


def pipeline_drawer(pipeline: Any, *, size_px: int, **settings: Any) -> Drawer:
    """Draw with a text-to-image pipeline, one seed a picture."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = pipeline(
            list(prompts), height=size_px, width=size_px, generator=generators, output_type="np", **settings
        ).images
        return list((pictures * 255).round().astype(np.uint8))

    return draw


def judge(samples: Sequence[Sample], pictures: Sequence[np.ndarray], category: Category, matcher: Matcher) -> dict:
    """How many of the pictures show what their samples ask for, and how many have the right background."""
    right = backgrounds = 0
    for sample, picture in zip(samples, pictures, strict=True):
        pixels = to_tensor(picture)
        reading = matcher.read(pixels)
        right += category.is_right(sample.scene, reading, partial(matcher.colour_of, pixels))
        backgrounds += reading.background == sample.scene.background
    return {"right": right, "background": backgrounds, "count": len(samples)}


Judged = tuple[dict[str, dict], list[np.ndarray]]  # counts of each column, and pictures for the grid


def judge_category(category: Category, draw: Drawer, matcher: Matcher, *, count: int, seed: int) -> Judged:
    """One category in both languages. "ceiling" is the truth itself, read by the same matcher."""
    samples = held_out_samples(category, count_=count, seed=seed, size_px=matcher.size_px)
    counts = {"ceiling": judge(samples, [s.image for s in samples], category, matcher)}
    shown: list[np.ndarray] = []
    bar = tqdm(total=len(LANGUAGES) * count, desc=category.name, unit="picture")
    for language in LANGUAGES:
        prompts = [getattr(sample, f"text_{language}") for sample in samples]
        pictures: list[np.ndarray] = []
        for first in range(0, len(prompts), BATCH):
            part = slice(first, first + BATCH)
            pictures += draw(prompts[part], range(seed + first, seed + first + len(prompts[part])))
            bar.update(len(prompts[part]))
        counts[language] = judge(samples, pictures, category, matcher)
        shown += pictures[:8]
    bar.close()
    return counts, shown


def evaluate(
    draw: Drawer, matcher: Matcher, *, count: int, seed: int, categories: Sequence[Category] = CATEGORIES
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Figures of every category and language, and eight pictures of each for a grid.

    The rates named "ceiling" are those of the truth itself, read by the same matcher: what a perfect model would reach.
    """
    judged = [judge_category(category, draw, matcher, count=count, seed=seed) for category in categories]
    return report_of([category.name for category in categories], judged)


def report_of(names: Sequence[str], judged: Sequence[Judged]) -> tuple[dict[str, Any], list[np.ndarray]]:
    results = {name: counts for name, (counts, _) in zip(names, judged, strict=True)}
    return summary(results), [picture for _, shown in judged for picture in shown]


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Counts to rates: one a category and language, the background over all, and the gap between the languages."""
    columns = (*LANGUAGES, "ceiling")

    def rate(key: str, column: str, names: Sequence[str]) -> float:
        parts = [results[name][column] for name in names]
        return round(sum(part[key] for part in parts) / sum(part["count"] for part in parts), 4)

    names = list(results)
    report: dict[str, Any] = {name: {c: rate("right", c, [name]) for c in columns} for name in names}
    report["background"] = {c: rate("background", c, names) for c in columns}
    report["overall"] = {c: rate("right", c, names) for c in columns}
    report["parity_points"] = round(100 * abs(report["overall"]["zh"] - report["overall"]["en"]), 2)
    report["prompts_a_language"] = {name: results[name]["zh"]["count"] for name in names}
    return report


@cache
def _tools(model: str, device: str, steps: int | None, guidance: float | None) -> tuple[Drawer, Matcher]:
    """Loaded once a process."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipeline = TextToImagePipeline.from_pretrained(model).to(device)
    pipeline.set_progress_bar_config(disable=True)
    size_px = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    draw = pipeline_drawer(pipeline, size_px=size_px, num_inference_steps=steps, guidance_scale=guidance)
    return draw, Matcher.for_pictures(size_px, device)


def _judge_alone(index: int, given: argparse.Namespace) -> Judged:
    if given.processes > 1:
        torch.set_num_threads(1)
    draw, matcher = _tools(given.model, given.device, given.steps, given.guidance)
    return judge_category(CATEGORIES[index], draw, matcher, count=given.count, seed=given.seed)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluate", description=__doc__.split("\n")[0], epilog=OTHERS
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

    work = partial(_judge_alone, given=given)
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            judged = list(pool.map(work, range(len(CATEGORIES))))
    else:
        judged = list(map(work, range(len(CATEGORIES))))
    report, shown = report_of([category.name for category in CATEGORIES], judged)
    report |= {"model": given.model, "seed": given.seed, "num_inference_steps": given.steps}
    report["guidance_scale"] = given.guidance
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Image.fromarray(tile(torch.from_numpy(np.stack(shown)), columns=16)).save(given.out / "grid.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
