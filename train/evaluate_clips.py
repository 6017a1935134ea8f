"""How well a model moves what it is told to, measured against the exact truth of the sticker world.

    python -m dianjing.train.evaluate_clips --model sticker --count 100 --out report

Scenes are of combinations that training never shows, Chinese and English apart: one click, two clicks, one click at
five strengths, words to film, and the mask of one click. Writes clips.json and clips.png.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from dianjing.train.clip_judges import (
    Animate,
    Animated,
    Asked,
    Figures,
    Film,
    Judged,
    films,
    judge_clicks,
    judge_films,
    judge_strengths,
    mask_iou,
    scenes,
)
from dianjing.train.evaluate import LANGUAGES
from dianjing.train.pictures import tile
from dianjing.train.stickers.clips import Clip
from dianjing.train.stickers.matching import Matcher

CEILING = "ceiling"  # in place of a language: the truth itself, read by the same judges
MOVING = {"clicks": 1, "two_clicks": 2, "strength": 1}  # objects of a scene that move
ROWS = (*MOVING, "films", "masks")
TOGETHER = 5  # clips of one piece of work
SHOWN = 4  # clips of a row and language on clips.png


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What one process needs; motions say how fast a phrase at a strength is."""

    animate: Animate
    film: Film
    speed: Callable[[str, float], float]
    matcher: Matcher
    world: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Clips `first` to `last` of one row of the report, in one language or as they truly are."""

    row: str
    column: str
    first: int
    last: int


@cache
def load(model: str, device: str, steps: int | None, guidance: float | None) -> Tools:
    """Both pipelines over one model, once a process."""
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline
    from dianjing.pipelines.regions import Region
    from dianjing.pipelines.text_to_video import TextToVideoPipeline

    clicks: Any = ImageToVideoPipeline.from_pretrained(model).to(device)
    words: Any = TextToVideoPipeline.from_pretrained(model, **clicks.components)
    for pipe in (clicks, words):
        pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": steps, "guidance_scale": guidance}

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def animate(clip: Clip, asked: Sequence[Asked], seed: int) -> Animated:
        regions = [Region(motion=each.phrase, mask=clip.masks[0, each.item], strength=each.strength) for each in asked]
        sizes = {"num_frames": clip.num_frames, "fps": clip.fps, "generator": generator(seed)}
        frames = clicks(clip.frames[0], regions, output_type="uint8", **sizes, **settings).frames[0]
        first_frame = clicks._encode_pixels(clicks._to_pixels(clip.frames[:1]))
        return Animated(frames=frames, decoded_first=clicks.decode(first_frame.unsqueeze(2))[0, 0])

    def film(clip: Clip, language: str, seed: int) -> np.ndarray:
        prompt = clip.text_zh if language == "zh" else clip.text_en
        return words(prompt, output_type="uint8", generator=generator(seed), **settings).frames[0]

    size_px = clicks.transformer.config.sample_size * clicks.vae_scale_factor
    world = {"size_px": size_px, "num_frames": clicks.config.default_num_frames, "fps": clicks.config.default_fps}
    matcher = Matcher.for_pictures(size_px, device)
    return Tools(animate=animate, film=film, speed=clicks.motions.speed, matcher=matcher, world=world)


def true_clip(clip: Clip, asked: Sequence[Asked], seed: int) -> Animated:
    return Animated(frames=clip.frames, decoded_first=clip.frames[0])


def true_film(clip: Clip, language: str, seed: int) -> np.ndarray:
    return clip.frames


def first(clips: Iterator[Clip], number: int) -> list[Clip]:
    return list(islice(clips, number))


def judge(part: Part, given: argparse.Namespace) -> Judged:
    if given.processes > 1:
        torch.set_num_threads(1)
    tools = load(given.model, given.device, given.steps, given.guidance)
    world = {**tools.world, "seed": given.seed}
    drawn = films(**world) if part.row == "films" else scenes(moving=MOVING[part.row], **world)
    clips = list(islice(drawn, part.first, part.last))
    spoken = {"language": "en" if part.column == CEILING else part.column, "seed": given.seed + part.first}
    if part.row == "films":
        return judge_films(true_film if part.column == CEILING else tools.film, tools.matcher, clips, **spoken)
    judge_row = judge_strengths if part.row == "strength" else judge_clicks
    return judge_row(true_clip if part.column == CEILING else tools.animate, tools.speed, clips, **spoken)


def parts_of(rows: Sequence[str], count: int) -> list[Part]:
    """Strengths take five clips each, so there are a fifth as many of them."""
    parts = []
    for row in rows:
        number = max(1, count // 5) if row == "strength" else count
        for column in LANGUAGES if row == "strength" else (*LANGUAGES, CEILING):
            starts = range(0, number, TOGETHER)
            parts += [Part(row=row, column=column, first=at, last=min(number, at + TOGETHER)) for at in starts]
    return parts


def report_of(parts: Sequence[Part], judged: Sequence[Judged]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Means of all figures, and some clips to look at."""
    values: dict[tuple[str, str], Figures] = {}
    shown: list[np.ndarray] = []
    for part, (figures, frames) in zip(parts, judged, strict=True):
        cell = values.setdefault((part.row, part.column), {})
        for name, found in figures.items():
            cell.setdefault(name, []).extend(found)
        if part.first == 0 and part.column != CEILING:
            shown += frames[:SHOWN]
    report: dict[str, Any] = {}
    for (row, column), figures in values.items():
        means = {name: round(float(np.mean(found)), 4) for name, found in figures.items()}
        report.setdefault(row, {})[column] = means
    return report, shown


def grabcut_iou(given: argparse.Namespace) -> float:
    from dianjing.pipelines.segmenting import GrabCut, Point

    def select(picture: np.ndarray, x: float, y: float) -> np.ndarray:
        cut = GrabCut()
        cut.look(picture)
        return cut.mask([Point(x=x, y=y)])

    world = load(given.model, given.device, given.steps, given.guidance).world
    return mask_iou(select, first(scenes(moving=1, seed=given.seed, **world), given.count))


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.evaluate_clips", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--count", type=int, default=100, help="clips a row and language (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, default=None, help="guidance scale (default: the model's)")
    parser.add_argument("--only", choices=ROWS, action="append", help="a row of the report; may be repeated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, some clips at a time")
    parser.add_argument("--out", type=Path, default=Path("report"))
    given = parser.parse_args()

    rows = given.only or ROWS
    parts = parts_of([row for row in rows if row != "masks"], given.count)
    bar = partial(tqdm, total=len(parts), unit="part")
    work = partial(judge, given=given)
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            judged = list(bar(pool.map(work, parts)))
    else:
        judged = list(bar(map(work, parts)))
    figures, shown = report_of(parts, judged)
    if "masks" in rows:
        figures["mask_iou_median"] = grabcut_iou(given)
    report = {"model": given.model, "clips_a_language": dict.fromkeys(rows, given.count), "seed": given.seed}
    report |= {"num_inference_steps": given.steps, "guidance_scale": given.guidance, **figures}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "clips.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if shown:
        pictures = torch.from_numpy(np.concatenate(shown))
        Image.fromarray(tile(pictures, columns=len(shown[0]))).save(given.out / "clips.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
