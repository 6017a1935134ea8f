"""Evaluation of transparent backgrounds: cut-outs against the true sprites of the sticker world, on white and black.

    python -m dianjing.train.evaluation.transparency --model sticker --count 10 --out out

Two columns: "true" cuts rendered scenes, whose sprites with alpha are known exactly; "generated" cuts images that the
model generates for held-out prompts, against the sprites that the matcher detects in them. The rim is where the alpha
of the sprites is between 0 and 1, and one pixel around; its error is in levels of 0 to 255.

An object that the model draws is not exactly the sprite, and that counts in "generated" as if it were an error of the
cut-out. "generation" is this part alone: the rims of generated images cut out with the true alpha of the sprites.

S image side in pixels; sprites are float (S, S, 4) on [0, 1] with premultiplied alpha.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.transparency.closed_form import estimate_foreground
from dianjing.train.evaluation.image_generation import CATEGORIES, GRID_PX, image_to_tensor, sample_held_out
from dianjing.train.evaluation.settings import (
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    parse_evaluation_settings,
)
from dianjing.train.stickers import CurriculumStage, StickerSample, StickerWorld
from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.world import DEFAULT_SCENE_WEIGHTS

RIM_ALPHA = (0.02, 0.98)
MAX_RIM_LEVELS = 8
PAPERS = {"white": 1.0, "black": 0.0}
SHEET_COLOURS = ((255, 255, 255), (0, 0, 0), (149, 236, 105))
SHEET_CELL_PX, SHEET_COLUMNS = 96, 4


def sample_scenes(num_samples: int, *, seed: int, size_px: int) -> list[StickerSample]:
    """Return the first samples of all scene types, from combinations that training never shows."""
    stage = CurriculumStage(scene_weights=DEFAULT_SCENE_WEIGHTS, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    return list(islice((world.get_image_sample(seed, position) for position in range(num_samples)), num_samples))


def composite_sprites(placed: Sequence[tuple[np.ndarray, int, int]], *, size_px: int) -> np.ndarray:
    """Composite sprites, uint8 (s, s, 4) premultiplied, at (x, y) over nothing: float (S, S, 4)."""
    canvas = np.zeros((size_px, size_px, 4))
    for sprite, x, y in placed:
        height, width = (min(side, size_px - start) for side, start in zip(sprite.shape[:2], (y, x), strict=True))
        pixels = sprite[:height, :width] / 255
        below = canvas[y : y + height, x : x + width]
        below[:] = pixels + (1 - pixels[..., 3:]) * below
    return canvas


def render_true_sprites(sample: StickerSample) -> np.ndarray:
    """Render the objects of a sample without its background."""
    placed = [
        (get_sprite(instance.class_id, size_px=side, colour=instance.colour), x, y)
        for instance, (x, y, side, _) in zip(sample.scene.instances, sample.boxes, strict=True)
    ]
    return composite_sprites(placed, size_px=sample.size_px)


def detect_sprites(image: np.ndarray, matcher: SpriteMatcher) -> np.ndarray:
    """Detect the objects of a generated image and render their sprites without background."""
    pixels = image_to_tensor(image)
    placed = []
    for each in matcher.detect(pixels).objects:
        sprite = get_sprite(each.class_id, size_px=each.size_px, colour=matcher.classify_colour(pixels, each))
        placed.append((sprite, each.x_px, each.y_px))
    return composite_sprites(placed, size_px=image.shape[0])


def measure_rim(cut: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Measure the rim of a cut-out, uint8 (S, S, 4), laid on white and on black, against the true sprites.

    Returns: the mean absolute error in levels on each, and under "_bias" the mean error with its sign.
    """
    alpha = truth[..., 3]
    rim = cv2.dilate(((alpha > RIM_ALPHA[0]) & (alpha < RIM_ALPHA[1])).astype(np.uint8), np.ones((3, 3))) > 0
    straight = cut / 255
    mine = np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=-1)
    errors = {}
    for name, paper in PAPERS.items():
        laid, expected = (each[..., :3] + (1 - each[..., 3:]) * paper for each in (mine, truth))
        difference = 255 * (laid - expected)[rim]
        errors[name] = float(np.abs(difference).mean())
        errors[f"{name}_bias"] = float(difference.mean())
    return errors


def measure_iou(cut: np.ndarray, truth: np.ndarray) -> float:
    """Measure the intersection over union of what is more opaque than not."""
    mine, expected = cut[..., 3] > 127, truth[..., 3] > 0.5
    return float((mine & expected).sum() / max(1, (mine | expected).sum()))


def evaluate_cut_outs(
    pipe: Any,
    images: Sequence[np.ndarray],
    prompts: Sequence[str],
    truths: Sequence[np.ndarray],
    backgrounds: Sequence[str],
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Cut the objects of prompts out of images, and compare them with the true sprites; return figures and cut-outs.

    backgrounds: the kind of each, "plain" or "textured", by which rims are averaged too.
    """
    rims, kinds, ious, cuts, num_failed = [], [], [], [], 0
    for image, prompt, truth, kind in zip(images, prompts, truths, backgrounds, strict=True):
        try:
            cut = pipe.remove_background(Image.fromarray(image), prompt)
        except DianjingError:
            num_failed += 1
            continue
        cuts.append(cut)
        if truth[..., 3].any():
            rims.append(measure_rim(np.asarray(cut), truth))
            kinds.append(kind)
            ious.append(measure_iou(np.asarray(cut), truth))
    worst = [max(each["white"], each["black"]) for each in rims]
    figures: dict[str, Any] = {name: round(float(np.mean([each[name] for each in rims])), 2) for name in rims[0]}
    for kind in sorted(set(kinds)):
        of_kind = [rim for rim, each in zip(rims, kinds, strict=True) if each == kind]
        figures[kind] = {name: round(float(np.mean([each[name] for each in of_kind])), 2) for name in PAPERS}
    figures |= {
        "rim_median": round(float(np.median(worst)), 2),
        "within_8_levels": round(float(np.mean(np.array(worst) <= MAX_RIM_LEVELS)), 3),
        "iou_mean": round(float(np.mean(ious)), 3),
        "iou_median": round(float(np.median(ious)), 3),
        "not_found": num_failed,
        "count": len(images),
    }
    return figures, cuts


def measure_generation_error(images: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
    """Measure the rims of images cut out with the true alpha of their sprites: errors that no cut-out causes."""
    rims = []
    for image, truth in zip(images, truths, strict=True):
        alpha = truth[..., 3]
        if alpha.any():
            foreground = estimate_foreground(image, alpha, alpha == 1, alpha == 0)
            rims.append(measure_rim(255 * np.concatenate([foreground, alpha[..., None]], axis=-1), truth))
    return {name: round(float(np.mean([each[name] for each in rims])), 2) for name in PAPERS}


def classify_background(sample: StickerSample) -> str:
    """Return the kind of a sample's background: "plain" for one color, else "textured"."""
    return "plain" if BACKGROUNDS[sample.scene.background].name_en.endswith(" background") else "textured"


def make_cut_out_sheet(cuts: Sequence[Image.Image]) -> Image.Image:
    """Lay cut-outs on white, black and the green of a chat bubble, SHEET_COLUMNS of them in a row."""
    width = SHEET_CELL_PX * len(SHEET_COLOURS)
    rows = -(-len(cuts) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (width * SHEET_COLUMNS, SHEET_CELL_PX * rows), "white")
    for index, cut in enumerate(cuts):
        scaled = cut.resize((SHEET_CELL_PX,) * 2, Image.Resampling.NEAREST)
        for number, colour in enumerate(SHEET_COLOURS):
            paper = Image.alpha_composite(Image.new("RGBA", scaled.size, (*colour, 255)), scaled)
            row, column = divmod(index, SHEET_COLUMNS)
            sheet.paste(paper.convert("RGB"), (column * width + number * SHEET_CELL_PX, row * SHEET_CELL_PX))
    return sheet


def write_transparency_report(settings: EvaluationSettings, out: Path) -> None:
    """Evaluate true and generated images, write the report and contact sheets to a folder, and print the report."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipe: Any = settings.prepare(TextToImagePipeline.from_pretrained(settings.model))
    size_px = pipe.default_size_px
    matcher, seed = SpriteMatcher(size_px=size_px, device=settings.device), settings.seed
    held_out = [
        sample
        for category in CATEGORIES
        for sample in sample_held_out(category, num_samples=settings.num_samples, seed=seed, size_px=size_px)
    ]
    prompts = [sample.text_zh if index % 2 else sample.text_en for index, sample in enumerate(held_out)]
    generated = []
    for index, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(seed + index)
        generated.append(np.asarray(pipe(prompt, generator=generator, **settings.generation_settings).images[0]))
    columns = {
        "true": ([sample.image for sample in held_out], [render_true_sprites(sample) for sample in held_out]),
        "generated": (generated, [detect_sprites(image, matcher) for image in generated]),
    }
    backgrounds = [classify_background(sample) for sample in held_out]
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"model": settings.model, "seed": seed, **settings.generation_settings}
    for name, (images, truths) in columns.items():
        report[name], cuts = evaluate_cut_outs(pipe, images, prompts, truths, backgrounds)
        make_cut_out_sheet(cuts).save(out / f"{name}.png")
    report["generation"] = measure_generation_error(*columns["generated"])
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.transparency",
        description=__doc__.split("\n")[0],
        default_count=10,
        count_help="prompts per category",
    )
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_transparency_report(parse_evaluation_settings(arguments), arguments.out)


if __name__ == "__main__":
    _main()
