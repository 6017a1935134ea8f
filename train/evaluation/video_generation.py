"""How well a model moves what it is told to, measured against the exact truth of the sticker world.

    python -m dianjing.train.evaluation.video_generation --model sticker --count 100 --out report

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

from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.image_generation import LANGUAGES
from dianjing.train.evaluation.video_metrics import (
    AnimateFunction,
    AnimationResult,
    GenerateVideoFunction,
    InstanceMotionRequest,
    MetricValues,
    VideoMetrics,
    evaluate_motion_control,
    evaluate_strength_control,
    evaluate_text_to_video,
    iterate_captioned_clips,
    iterate_controlled_clips,
    measure_mask_iou,
)
from dianjing.train.stickers.clips import StickerClip
from dianjing.train.stickers.matching import SpriteMatcher

GROUND_TRUTH = "ground_truth"  # in place of a language: the truth itself, read by the same judges
NUM_MOVING_OBJECTS = {"one_region": 1, "two_regions": 2, "strength": 1}  # objects of a scene that move
REPORT_ROWS = (*NUM_MOVING_OBJECTS, "text_to_video", "masks")
WORK_ITEM_SIZE = 5  # clips of one piece of work
NUM_PREVIEW_CLIPS = 4  # clips of a row and language on clips.png


@dataclass(frozen=True, kw_only=True)
class VideoEvaluator:
    """What one process needs; motions say how fast a phrase at a strength is."""

    animate: AnimateFunction
    generate: GenerateVideoFunction
    get_speed: Callable[[str, float], float]
    matcher: SpriteMatcher
    world_settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvaluationWorkItem:
    """Clips `first` to `last` of one row of the report, in one language or as they truly are."""

    row: str
    column: str
    start: int
    stop: int


@cache
def load_video_evaluator(model: str, device: str, steps: int | None, guidance_scale: float | None) -> VideoEvaluator:
    """Both pipelines over one model, once a process."""
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline
    from dianjing.pipelines.segmentation.base import Region
    from dianjing.pipelines.text_to_video import TextToVideoPipeline

    clicks: Any = ImageToVideoPipeline.from_pretrained(model).to(device)
    words: Any = TextToVideoPipeline.from_pretrained(model, **clicks.components)
    for pipe in (clicks, words):
        pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale}

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def animate(clip: StickerClip, asked: Sequence[InstanceMotionRequest], seed: int) -> AnimationResult:
        regions = [
            Region(motion=each.phrase, mask=clip.masks[0, each.instance_index], strength=each.strength)
            for each in asked
        ]
        sizes = {"num_frames": clip.num_frames, "fps": clip.fps, "generator": generator(seed)}
        frames = clicks(clip.frames[0], regions, output_type="uint8", **sizes, **settings).frames[0]
        first_frame = clicks._encode_pixels(clicks._to_pixels(clip.frames[:1]))
        return AnimationResult(frames=frames, decoded_first_frame=clicks.decode(first_frame.unsqueeze(2))[0, 0])

    def film(clip: StickerClip, language: str, seed: int) -> np.ndarray:
        prompt = clip.text_zh if language == "zh" else clip.text_en
        return words(prompt, output_type="uint8", generator=generator(seed), **settings).frames[0]

    size_px = clicks.transformer.config.sample_size * clicks.vae_scale_factor
    world = {"size_px": size_px, "num_frames": clicks.config.default_num_frames, "fps": clicks.config.default_fps}
    matcher = SpriteMatcher(size_px=size_px, device=device)
    return VideoEvaluator(
        animate=animate,
        generate=film,
        get_speed=clicks.motion_vocabulary.get_speed,
        matcher=matcher,
        world_settings=world,
    )


def get_ground_truth_animation(
    clip: StickerClip, motions: Sequence[InstanceMotionRequest], seed: int
) -> AnimationResult:
    return AnimationResult(frames=clip.frames, decoded_first_frame=clip.frames[0])


def get_ground_truth_video(clip: StickerClip, language: str, seed: int) -> np.ndarray:
    return clip.frames


def take_first(clips: Iterator[StickerClip], number: int) -> list[StickerClip]:
    return list(islice(clips, number))


def run_work_item(work_item: EvaluationWorkItem, arguments: argparse.Namespace) -> VideoMetrics:
    if arguments.processes > 1:
        torch.set_num_threads(1)
    tools = load_video_evaluator(arguments.model, arguments.device, arguments.steps, arguments.guidance)
    world = {**tools.world_settings, "seed": arguments.seed}
    drawn = (
        iterate_captioned_clips(**world)
        if work_item.row == "text_to_video"
        else iterate_controlled_clips(num_moving=NUM_MOVING_OBJECTS[work_item.row], **world)
    )
    clips = list(islice(drawn, work_item.start, work_item.stop))
    spoken = {
        "language": "en" if work_item.column == GROUND_TRUTH else work_item.column,
        "seed": arguments.seed + work_item.start,
    }
    if work_item.row == "text_to_video":
        return evaluate_text_to_video(
            get_ground_truth_video if work_item.column == GROUND_TRUTH else tools.generate,
            tools.matcher,
            clips,
            **spoken,
        )
    judge_row = evaluate_strength_control if work_item.row == "strength" else evaluate_motion_control
    return judge_row(
        get_ground_truth_animation if work_item.column == GROUND_TRUTH else tools.animate,
        tools.get_speed,
        clips,
        **spoken,
    )


def make_work_items(rows: Sequence[str], num_samples: int) -> list[EvaluationWorkItem]:
    """Strengths take five clips each, so there are a fifth as many of them."""
    parts = []
    for row in rows:
        number = max(1, num_samples // 5) if row == "strength" else num_samples
        for column in LANGUAGES if row == "strength" else (*LANGUAGES, GROUND_TRUTH):
            starts = range(0, number, WORK_ITEM_SIZE)
            parts += [
                EvaluationWorkItem(row=row, column=column, start=at, stop=min(number, at + WORK_ITEM_SIZE))
                for at in starts
            ]
    return parts


def make_video_report(
    work_items: Sequence[EvaluationWorkItem], results: Sequence[VideoMetrics]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Means of all figures, and some clips to look at."""
    values: dict[tuple[str, str], MetricValues] = {}
    shown: list[np.ndarray] = []
    for part, (figures, frames) in zip(work_items, results, strict=True):
        cell = values.setdefault((part.row, part.column), {})
        for name, found in figures.items():
            cell.setdefault(name, []).extend(found)
        if part.start == 0 and part.column != GROUND_TRUTH:
            shown += frames[:NUM_PREVIEW_CLIPS]
    report: dict[str, Any] = {}
    for (row, column), figures in values.items():
        means = {name: round(float(np.mean(found)), 4) for name, found in figures.items()}
        report.setdefault(row, {})[column] = means
    return report, shown


def measure_grabcut_iou(arguments: argparse.Namespace) -> float:
    from dianjing.pipelines.segmentation.base import Point
    from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

    def select(picture: np.ndarray, x: float, y: float) -> np.ndarray:
        cut = GrabCutSegmenter()
        cut.set_image(picture)
        return cut.predict([Point(x=x, y=y)])

    world = load_video_evaluator(arguments.model, arguments.device, arguments.steps, arguments.guidance).world_settings
    return measure_mask_iou(
        select, take_first(iterate_controlled_clips(num_moving=1, seed=arguments.seed, **world), arguments.count)
    )


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.video_generation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--count", type=int, default=100, help="clips a row and language (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, default=None, help="guidance scale (default: the model's)")
    parser.add_argument("--only", choices=REPORT_ROWS, action="append", help="a row of the report; may be repeated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, some clips at a time")
    parser.add_argument("--out", type=Path, default=Path("report"))
    given = parser.parse_args()

    rows = given.only or REPORT_ROWS
    parts = make_work_items([row for row in rows if row != "masks"], given.count)
    bar = partial(tqdm, total=len(parts), unit="part")
    work = partial(run_work_item, arguments=given)
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            judged = list(bar(pool.map(work, parts)))
    else:
        judged = list(bar(map(work, parts)))
    figures, shown = make_video_report(parts, judged)
    if "masks" in rows:
        figures["mask_iou_median"] = measure_grabcut_iou(given)
    report = {"model": given.model, "clips_per_language": dict.fromkeys(rows, given.count), "seed": given.seed}
    report |= {"num_inference_steps": given.steps, "guidance_scale": given.guidance, **figures}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "clips.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if shown:
        pictures = torch.from_numpy(np.concatenate(shown))
        Image.fromarray(tile_images(pictures, columns=len(shown[0]))).save(given.out / "clips.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
