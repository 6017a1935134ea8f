"""Fine-tune the bundled model on a new object from twelve images, by the run file that `--init` writes, as it is.

    python -m benchmarks.new_concept --out runs/new_concept

The new object, a striped lighthouse with a star, is like no object of the model. It is trained in front of some
backgrounds and evaluated in front of others; known ones before and after by the same prompts, seeds and steps.
Writes images, the run, report.json and new_concept.png.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from dianjing import TextToImagePipeline
from dianjing.train.config.run_file import read_run_config
from dianjing.train.data.images import stack_images, tile_images
from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    IMAGE_BATCH_SIZE,
    ImageGenerator,
    evaluate_images,
    make_image_generator,
    sample_held_out,
)
from dianjing.train.new_run import write_run_files
from dianjing.train.run import train_model
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.rendering import composite_premultiplied
from dianjing.weights.registry import get_finetune_defaults

MATCHED_IMAGE_PX = 64  # images are read at this side; sizes and offsets of the object are in pixels of it
CONCEPT_NAMES = {"zh": "灯塔", "en": "lighthouse"}
TRAIN_BACKGROUNDS = (0, 2, 4, 8, 9, 10, 11, 12, 13, 14, 16, 20)
TRAIN_SIZES_PX = (28, 32, 36)
MAX_OFFSET_PX = 6  # of the object from the center, in training images
MATCHED_SIZES_PX = range(22, 49, 2)
OVERSAMPLING = 8
PURPLE, LILAC, DARK, YELLOW = (110, 50, 170, 255), (225, 205, 245, 255), (60, 25, 95, 255), (255, 205, 40, 255)
PRESENCE_THRESHOLD = 0.6  # a measured presence above it counts as an image of the object
MAX_MINUTES = 12.0  # of training, on two cores


def render_lighthouse(side_px: int) -> np.ndarray:
    """Render the new object, a striped tower with a star on it: premultiplied uint8 (side_px, side_px, 4)."""
    unit = side_px * OVERSAMPLING / 100
    image = Image.new("RGBA", (side_px * OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(image)
    edges = np.linspace(34, 92, 6)
    for stripe, (top, bottom) in enumerate(pairwise(edges)):
        widths = [13 + (y - 34) * 11 / 58 for y in (top, bottom)]  # half of the tower's, at both edges
        corners = [(50 - widths[0], top), (50 + widths[0], top), (50 + widths[1], bottom), (50 - widths[1], bottom)]
        draw.polygon([(x * unit, y * unit) for x, y in corners], fill=(PURPLE, LILAC)[stripe % 2])
    for x, y, right, bottom in ((22, 90, 78, 98), (32, 29, 68, 35)):
        draw.rectangle([x * unit, y * unit, right * unit, bottom * unit], fill=DARK)
    points = []
    for k in range(10):
        radius, angle = (8, 18)[k % 2 == 0], math.pi * (k / 5 - 0.5)
        points.append(((50 + radius * math.cos(angle)) * unit, (18 + radius * math.sin(angle)) * unit))
    draw.polygon(points, fill=YELLOW)
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BOX).convert("RGBa")).copy()


def render_concept_image(
    background: int, *, size_px: int = 32, offset_px: tuple[int, int] = (0, 0), image_px: int = MATCHED_IMAGE_PX
) -> np.ndarray:
    """Render the new object in front of a background, away from the center by (x, y): uint8 (image_px, image_px, 3)."""
    canvas = render_background(background, 0, size_px=image_px).copy()
    scale = image_px // MATCHED_IMAGE_PX
    x, y = (((MATCHED_IMAGE_PX - size_px) // 2 + offset) * scale for offset in offset_px)
    composite_premultiplied(canvas, render_lighthouse(size_px * scale), x=x, y=y)
    return canvas


def write_concept_images(folder: Path, *, image_px: int) -> None:
    """Write one training image for each of TRAIN_BACKGROUNDS, with captions in both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(5)
    for index, background in enumerate(TRAIN_BACKGROUNDS):
        size_px = rng.choice(TRAIN_SIZES_PX)
        x, y = (rng.randint(-MAX_OFFSET_PX, MAX_OFFSET_PX) for _ in range(2))
        image = Image.fromarray(render_concept_image(background, size_px=size_px, offset_px=(x, y), image_px=image_px))
        image.save(folder / f"{index:02}.png")
        for language, text in make_concept_captions(background).items():
            (folder / f"{index:02}.{language}.txt").write_text(text, encoding="utf-8")


def make_concept_captions(background: int) -> dict[str, str]:
    """Return the captions of the new object in front of a background, by language."""
    entry = BACKGROUNDS[background]
    return {
        "zh": f"{entry.location_phrases_zh[0]}的一座{CONCEPT_NAMES['zh']}",
        "en": f"a {CONCEPT_NAMES['en']} {entry.location_phrases_en[0]}",
    }


def list_new_backgrounds(count: int) -> list[int]:
    """Return `count` backgrounds that the object is not trained with, in turn."""
    others = [index for index in range(len(BACKGROUNDS)) if index not in TRAIN_BACKGROUNDS]
    return [others[index % len(others)] for index in range(count)]


def measure_presence(image: np.ndarray, background: int) -> float:
    """Return the explained share of the change that the new object makes to a background, at the best size and place.

    1 for a perfect image of the object, 0 or less for none. image: uint8 (H, W, 3), which is reduced by averages.
    """
    empty = torch.from_numpy(render_background(background, 0, size_px=MATCHED_IMAGE_PX).astype(np.float32) / 255)
    size = (MATCHED_IMAGE_PX, MATCHED_IMAGE_PX)
    difference = (
        torch.from_numpy(cv2.resize(image.astype(np.float32) / 255, size, interpolation=cv2.INTER_AREA)) - empty
    )
    best = -math.inf
    for side_px in MATCHED_SIZES_PX:
        sprite = torch.from_numpy(render_lighthouse(side_px).astype(np.float32) / 255).permute(2, 0, 1)
        below, visible = (each.unfold(0, side_px, 1).unfold(1, side_px, 1) for each in (empty, difference))
        change = sprite[:3] - sprite[3:] * below  # (offsets down, offsets across, 3, side_px, side_px)
        residual = sprite[3:] * visible - change
        shares = 1 - residual.square().sum((2, 3, 4)) / change.square().sum((2, 3, 4))
        best = max(best, float(shares.max()))
    return best


@dataclass(frozen=True, kw_only=True)
class ConceptScores:
    """Images that show the new object, of all prompted ones; the share of right images of known objects; the images."""

    concept_count: int
    prior_accuracy: float
    images: list[np.ndarray]


def evaluate_concept(
    generate: ImageGenerator, *, image_px: int, num_prompts: int, num_prior_prompts: int
) -> ConceptScores:
    """Evaluate the new object in front of other backgrounds in both languages, and held-out images of known objects.

    The `num_prior_prompts` are of all categories in equal parts, always with the same seeds.
    """
    backgrounds = list_new_backgrounds(num_prompts)
    prompts = [make_concept_captions(each)[("zh", "en")[i % 2]] for i, each in enumerate(backgrounds)]
    images = generate_batches(generate, prompts)
    presences = [measure_presence(image, each) for image, each in zip(images, backgrounds, strict=True)]
    matcher = SpriteMatcher.for_images(image_px)
    num_right = count = 0
    for category in CATEGORIES:
        samples = sample_held_out(
            category, num_samples=num_prior_prompts // len(CATEGORIES), seed=1, size_px=matcher.size_px
        )
        texts = [getattr(sample, f"text_{('zh', 'en')[i % 2]}") for i, sample in enumerate(samples)]
        counts = evaluate_images(samples, generate_batches(generate, texts), category, matcher)
        num_right, count = num_right + counts["correct"], count + counts["count"]
    return ConceptScores(
        concept_count=sum(presence > PRESENCE_THRESHOLD for presence in presences),
        prior_accuracy=num_right / count,
        images=images,
    )


def generate_batches(generate: ImageGenerator, prompts: Sequence[str]) -> list[np.ndarray]:
    """Generate an image of each prompt, with its index as the seed."""
    images: list[np.ndarray] = []
    for first in range(0, len(prompts), IMAGE_BATCH_SIZE):
        batch = prompts[first : first + IMAGE_BATCH_SIZE]
        images += generate(batch, range(first, first + len(batch)))
    return images


def train_concept(out: Path, *, model: str, overrides: Sequence[str] = ()) -> Path:
    """Write the images and the run file of `--init`, train as it says, and return the folder of the adapter.

    The run file is used as it was written, but for the folders of the run and of the cache, and for `overrides`.
    """
    write_concept_images(out / "pictures", image_px=get_finetune_defaults(model).size_px)  # where --init looks
    path = out / "run.toml"
    if not path.exists():
        write_run_files(path, overrides=[f"model.name={model}"])
    config = read_run_config(path, [f"run.folder={out / 'run'}", f"data.cache_folder={out / 'cache'}", *overrides])
    train_model(config, resume="auto", should_stop=lambda: False)
    return out / "run" / "export"


def make_before_after_image(before: Sequence[np.ndarray], after: Sequence[np.ndarray], folder: Path) -> Image.Image:
    """Return one image of three rows: training images, and generated ones before and after training, same seeds."""
    trained = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    rows = [tile_images(torch.from_numpy(np.stack(row)), columns=12) for row in (trained[:12], before[:12], after[:12])]
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    stacked = stack_images([rows[0], gap, rows[1], gap, rows[2]])
    return Image.fromarray(stacked).resize((stacked.shape[1] * 2, stacked.shape[0] * 2), Image.Resampling.BICUBIC)


def make_report(before: ConceptScores, after: ConceptScores, *, num_prompts: int, training_s: float) -> dict[str, Any]:
    """Return the figures, among them those that must not be negative: minutes_left and the others with a margin."""
    return {
        "training_s": round(training_s, 1),
        "minutes_left": round(MAX_MINUTES - training_s / 60, 2),
        "prompts": num_prompts,
        "concept": {
            "before": before.concept_count,
            "after": after.concept_count,
            "absent_before": num_prompts - before.concept_count,
        },
        "prior_accuracy": {
            "before": round(before.prior_accuracy, 4),
            "after": round(after.prior_accuracy, 4),
            "change": round(after.prior_accuracy - before.prior_accuracy, 4),
        },
    }


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_concept", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/new_concept"))
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--prompts", type=int, default=24, help="evaluated images of the new object")
    parser.add_argument("--prior-prompts", type=int, default=600, help="evaluated images of known objects")
    arguments = parser.parse_args()
    pipe: Any = TextToImagePipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    pipe.default_adapter = None  # with an adapter of a user the model draws in its own steps: here also without one
    image_px = pipe.default_size_px
    generate = make_image_generator(pipe, size_px=image_px)
    counts = {"image_px": image_px, "num_prompts": arguments.prompts, "num_prior_prompts": arguments.prior_prompts}
    before = evaluate_concept(generate, **counts)
    start_s = time.perf_counter()
    adapter = train_concept(arguments.out, model=arguments.model)
    training_s = time.perf_counter() - start_s
    pipe.load_lora_weights(adapter)
    after = evaluate_concept(generate, **counts)
    report = make_report(before, after, num_prompts=arguments.prompts, training_s=training_s)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    make_before_after_image(before.images, after.images, arguments.out / "pictures").save(
        arguments.out / "new_concept.png"
    )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
