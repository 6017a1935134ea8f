"""Evaluation of motion control and of text-to-video generation against the ground truth of the sticker world.

    python -m dianjing.train.evaluation.video_generation --model sticker --count 100 --out report

Scenes are held-out combinations, Chinese and English apart. Rows of the report: motion of one region, of a clicked
one, of two regions, of one region at five strengths, text to video, and the mask of a click. Regions that are not
clicked have the true masks of their objects. Writes video_report.json and video_grid.webp.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.settings import (
    COLUMNS,
    GRID_FORMAT,
    GROUND_TRUTH,
    LANGUAGES,
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    map_in_processes,
    parse_evaluation_settings,
)
from dianjing.train.evaluation.video_metrics import (
    STRENGTHS,
    AnimateFunction,
    AnimationResult,
    GenerateVideoFunction,
    GetSpeed,
    InstanceMotionRequest,
    MetricValues,
    VideoMetrics,
    evaluate_motion_control,
    evaluate_strength_control,
    evaluate_text_to_video,
    find_deepest_point,
    iterate_captioned_clips,
    iterate_controlled_clips,
    measure_mask_iou,
)
from dianjing.train.stickers.clips import StickerClip
from dianjing.train.stickers.matching import SpriteMatcher

CLICKED_ROW = "clicked_region"
NUM_MOVING_OBJECTS = {"one_region": 1, CLICKED_ROW: 1, "two_regions": 2, "strength": 1}  # of rows of motion control
REPORT_ROWS = (*NUM_MOVING_OBJECTS, "text_to_video", "masks")
WORK_ITEM_SIZE = 5  # clips
NUM_PREVIEW_CLIPS = 4  # per row and language, in video_grid.webp


@dataclass(frozen=True, kw_only=True)
class VideoEvaluator:
    """A model's functions, with the matcher and the settings of the clips that it is evaluated on.

    animate: regions by true masks. animate_clicked: regions by clicks. predict_mask: see `measure_mask_iou`.
    """

    animate: AnimateFunction
    animate_clicked: AnimateFunction
    predict_mask: Callable[[np.ndarray, float, float], np.ndarray]
    generate: GenerateVideoFunction
    get_speed: GetSpeed
    matcher: SpriteMatcher
    world_settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvaluationWorkItem:
    """Clips of one cell of the report, from `start` to `stop` (exclusive); column: a language or GROUND_TRUTH."""

    row: str
    column: str
    start: int
    stop: int


@cache
def load_video_evaluator(settings: EvaluationSettings) -> VideoEvaluator:
    """Load the pipelines, which share one model, once per process."""
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline
    from dianjing.pipelines.segmentation.base import Point, Region
    from dianjing.pipelines.text_to_video import TextToVideoPipeline
    from dianjing.pipelines.vae import encode_images, frames_to_pixels

    image_to_video: Any = ImageToVideoPipeline.from_pretrained(settings.model).to(settings.device)
    text_to_video: Any = TextToVideoPipeline.from_pretrained(settings.model, **image_to_video.components)
    for pipeline in (image_to_video, text_to_video):
        pipeline.set_progress_bar_config(disable=True)
    common: dict[str, Any] = {"output_type": "uint8", **settings.generation_settings}

    def animate(
        clip: StickerClip, requests: Sequence[InstanceMotionRequest], seed: int, *, clicked: bool = False
    ) -> AnimationResult:
        regions = []
        for each in requests:
            mask = clip.masks[0, each.instance_index]
            x, y = find_deepest_point(mask)
            place: dict[str, Any] = {"points": [Point(x=x, y=y)]} if clicked else {"mask": mask}
            regions.append(Region(motion=each.phrase, strength=each.strength, **place))
        generator = torch.Generator().manual_seed(seed)
        frames = image_to_video(
            clip.frames[0], regions, num_frames=clip.num_frames, fps=clip.fps, generator=generator, **common
        ).frames[0]
        vae, device = image_to_video.vae, image_to_video.execution_device
        latents = encode_images(vae, frames_to_pixels(clip.frames[:1], device=device, dtype=vae.dtype))
        return AnimationResult(frames=frames, decoded_first_frame=image_to_video.decode(latents.unsqueeze(2))[0, 0])

    def predict_mask(image: np.ndarray, x: float, y: float) -> np.ndarray:
        image_to_video.segmenter.set_image(image)
        return image_to_video.segmenter.predict([Point(x=x, y=y)])

    def generate(clip: StickerClip, language: str, seed: int) -> np.ndarray:
        prompt = clip.text_zh if language == "zh" else clip.text_en
        return text_to_video(prompt, generator=torch.Generator().manual_seed(seed), **common).frames[0]

    config = image_to_video.config
    size_px = image_to_video.default_size_px
    return VideoEvaluator(
        animate=animate,
        animate_clicked=partial(animate, clicked=True),
        predict_mask=predict_mask,
        generate=generate,
        get_speed=image_to_video.motion_vocabulary.get_speed,
        matcher=SpriteMatcher.for_images(size_px, settings.device),
        world_settings={"size_px": size_px, "num_frames": config.default_num_frames, "fps": config.default_fps},
    )


def get_ground_truth_animation(
    clip: StickerClip, motions: Sequence[InstanceMotionRequest], seed: int
) -> AnimationResult:
    """Return the clip itself, in place of a model's animation."""
    return AnimationResult(frames=clip.frames, decoded_first_frame=clip.frames[0])


def get_ground_truth_video(clip: StickerClip, language: str, seed: int) -> np.ndarray:
    """Return the clip itself, in place of a model's video: uint8 (F, S, S, 3)."""
    return clip.frames


def take_first(clips: Iterator[StickerClip], number: int) -> list[StickerClip]:
    """Return the first clips of an iterator."""
    return list(islice(clips, number))


def run_work_item(work_item: EvaluationWorkItem, *, settings: EvaluationSettings) -> VideoMetrics:
    """Evaluate the clips of one work item."""
    evaluator = load_video_evaluator(settings)
    is_ground_truth = work_item.column == GROUND_TRUTH
    language = "en" if is_ground_truth else work_item.column
    seed = settings.seed + work_item.start
    world = {**evaluator.world_settings, "seed": settings.seed}
    if work_item.row == "text_to_video":
        clips = list(islice(iterate_captioned_clips(**world), work_item.start, work_item.stop))
        generate = get_ground_truth_video if is_ground_truth else evaluator.generate
        return evaluate_text_to_video(generate, evaluator.matcher, clips, language=language, seed=seed)
    controlled = iterate_controlled_clips(num_moving=NUM_MOVING_OBJECTS[work_item.row], **world)
    clips = list(islice(controlled, work_item.start, work_item.stop))
    animate = evaluator.animate_clicked if work_item.row == CLICKED_ROW else evaluator.animate
    if is_ground_truth:
        animate = get_ground_truth_animation
    evaluate = evaluate_strength_control if work_item.row == "strength" else evaluate_motion_control
    return evaluate(animate, evaluator.get_speed, clips, language=language, seed=seed)


def make_work_items(rows: Sequence[str], num_samples: int) -> list[EvaluationWorkItem]:
    """Split the clips of each row and column into work items.

    Row "strength" animates a clip with every one of STRENGTHS, so that it has that many times fewer clips.
    """
    work_items = []
    for row in rows:
        num_clips = max(1, num_samples // len(STRENGTHS)) if row == "strength" else num_samples
        for column in LANGUAGES if row == "strength" else COLUMNS:
            for start in range(0, num_clips, WORK_ITEM_SIZE):
                stop = min(num_clips, start + WORK_ITEM_SIZE)
                work_items.append(EvaluationWorkItem(row=row, column=column, start=start, stop=stop))
    return work_items


def make_video_report(
    work_items: Sequence[EvaluationWorkItem], results: Sequence[VideoMetrics]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Combine the results of work items: the mean of each metric (row -> column -> metric), and previews."""
    values: dict[tuple[str, str], MetricValues] = {}
    previews: list[np.ndarray] = []
    for work_item, (metrics, videos) in zip(work_items, results, strict=True):
        cell = values.setdefault((work_item.row, work_item.column), {})
        for name, found in metrics.items():
            cell.setdefault(name, []).extend(found)
        if work_item.start == 0 and work_item.column != GROUND_TRUTH:
            previews += videos[:NUM_PREVIEW_CLIPS]
    report: dict[str, Any] = {}
    for (row, column), metrics in values.items():
        report.setdefault(row, {})[column] = {name: round(float(np.mean(found)), 4) for name, found in metrics.items()}
    return report, previews


def measure_click_iou(settings: EvaluationSettings) -> float:
    """Measure the median mask IoU of one click, by the segmenter of the pipeline, on the clips of row "one_region"."""
    evaluator = load_video_evaluator(settings)
    clips = iterate_controlled_clips(num_moving=1, seed=settings.seed, **evaluator.world_settings)
    return measure_mask_iou(evaluator.predict_mask, take_first(clips, settings.num_samples))


def write_video_report(settings: EvaluationSettings, rows: Sequence[str], out: Path) -> None:
    """Evaluate rows of the report, write it with previews to a folder, and print it."""
    work_items = make_work_items([row for row in rows if row != "masks"], settings.num_samples)
    run = partial(run_work_item, settings=settings)
    mapped = map_in_processes(run, work_items, num_processes=settings.num_processes)
    metrics, previews = make_video_report(work_items, list(tqdm(mapped, total=len(work_items), unit="part")))
    if "masks" in rows:
        metrics["mask_iou_median"] = measure_click_iou(settings)
    report: dict[str, Any] = {"model": settings.model, "clips_per_language": dict.fromkeys(rows, settings.num_samples)}
    report |= {"seed": settings.seed, **settings.generation_settings, **metrics}
    out.mkdir(parents=True, exist_ok=True)
    (out / "video_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if previews:
        grid = tile_images(torch.from_numpy(np.concatenate(previews)), columns=len(previews[0]))
        Image.fromarray(grid).save(out / "video_grid.webp", **GRID_FORMAT)
    print(json.dumps(report, indent=1))


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.video_generation",
        description=__doc__.split("\n")[0],
        default_count=100,
        count_help="clips per row and language",
    )
    parser.add_argument("--only", choices=REPORT_ROWS, action="append", help="a row of the report; may be repeated")
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_video_report(parse_evaluation_settings(arguments), arguments.only or REPORT_ROWS, arguments.out)


if __name__ == "__main__":
    _main()
