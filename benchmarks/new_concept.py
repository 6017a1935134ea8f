"""Teach the embedded model an object it has never seen, from twelve pictures, and see what it knows before and after.

    python -m benchmarks.new_concept --out runs/teaching

Momo 毛毛 is drawn here. It is trained on in front of some backgrounds and asked for in front of others. So that the old
objects stay, the model first draws some of them itself, and trains on those as well (prior preservation: DreamBooth,
arXiv 2208.12242); others are asked for before and after. Writes pictures, the adapter, report.json and teaching.png.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dianjing import TextToImagePipeline
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.data.images import stack_images, tile_images
from dianjing.train.evaluation.image_generation import (
    CATEGORIES,
    ImageGenerator,
    evaluate_images,
    make_image_generator,
    sample_held_out,
)
from dianjing.train.run import train_model
from dianjing.train.stickers import StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.rendering import composite_premultiplied

IMAGE_SIZE_PX = 64
ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD_TARGETS = ("ff.net.0.proj", "ff.net.2")  # what things look like
CONCEPT_NAMES = {"zh": "毛毛", "en": "momo"}
TRAIN_BACKGROUNDS = (0, 2, 4, 8, 9, 10, 11, 12, 13, 14, 16, 20)  # backgrounds
CONCEPT_SIZE_PX = 32
NUM_PRIOR_IMAGES, CONCEPT_REPEATS = (
    192,
    12,
)  # pictures of old objects, and how often each of a Momo is shown beside them
OVERSAMPLING = 8
PRESENCE_THRESHOLD = 0.5  # of what a Momo there would change; more counts as one


def render_momo(side_px: int) -> np.ndarray:
    """A teal drop with two eyes, feet and an aerial: premultiplied uint8 (side_px, side_px, 4)."""
    unit = side_px * OVERSAMPLING / 100
    picture = Image.new("RGBA", (side_px * OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(picture)

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x * unit, y * unit, (x + w) * unit, (y + h) * unit

    draw.line([50 * unit, 30 * unit, 62 * unit, 10 * unit], fill=(20, 90, 100, 255), width=round(5 * unit))
    draw.ellipse(box(55, 2, 16, 16), fill=(255, 200, 40, 255))
    for x in (28, 56):
        draw.ellipse(box(x, 86, 18, 13), fill=(20, 90, 100, 255))
    draw.ellipse(box(14, 26, 72, 68), fill=(40, 180, 175, 255))
    draw.ellipse(box(30, 56, 40, 32), fill=(190, 240, 225, 255))
    for x in (30, 54):
        draw.ellipse(box(x, 36, 17, 20), fill=(255, 255, 255, 255))
        draw.ellipse(box(x + 5, 42, 9, 11), fill=(20, 30, 50, 255))
    pixels = np.asarray(picture.resize((side_px, side_px), Image.Resampling.BOX).convert("RGBa"))
    return pixels.copy()


def render_concept_image(background: int) -> np.ndarray:
    """A Momo in the middle."""
    canvas = render_background(background, 0, size_px=IMAGE_SIZE_PX).copy()
    corner = (IMAGE_SIZE_PX - CONCEPT_SIZE_PX) // 2
    composite_premultiplied(canvas, render_momo(CONCEPT_SIZE_PX), x=corner, y=corner)
    return canvas


def write_concept_images(folder: Path) -> None:
    """Twelve pictures, with captions in both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, background in enumerate(TRAIN_BACKGROUNDS):
        save_captioned_image(
            folder / f"{index:02}.png", render_concept_image(background), make_concept_captions(background)
        )


def write_prior_images(folder: Path, generate: ImageGenerator) -> None:
    """What the model draws of the objects it knows, with what it was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    world = StickerWorld(size_px=IMAGE_SIZE_PX, split="train")
    texts = [
        {"zh": s.text_zh, "en": s.text_en} for s in (world.get_image_sample(3, index) for index in range(NUM_PRIOR_IMAGES))
    ]
    pictures = generate([text[("zh", "en")[index % 2]] for index, text in enumerate(texts)], range(NUM_PRIOR_IMAGES))
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        save_captioned_image(folder / f"{index:03}.png", picture, text)


def save_captioned_image(path: Path, image: np.ndarray, captions: dict[str, str]) -> None:
    Image.fromarray(image).save(path)
    for language, text in captions.items():
        path.with_suffix(f".{language}.txt").write_text(text, encoding="utf-8")


def make_concept_captions(background: int) -> dict[str, str]:
    behind = BACKGROUNDS[background]
    return {
        "zh": f"{behind.location_phrases_zh[0]}的一只{CONCEPT_NAMES['zh']}",
        "en": f"a {CONCEPT_NAMES['en']} {behind.location_phrases_en[0]}",
    }


def measure_presence(image: np.ndarray, background: int) -> float:
    """How much of what a Momo would change in this background the picture shows: 1 for a perfect one, 0 for none."""
    behind = render_background(background, 0, size_px=IMAGE_SIZE_PX).astype(np.float32) / 255
    shown = image.astype(np.float32) / 255
    best = 0.0
    for side_px in range(24, 45, 2):
        pixels = render_momo(side_px).astype(np.float32) / 255
        colour, cover = pixels[..., :3], pixels[..., 3:]
        for y in range(IMAGE_SIZE_PX - side_px + 1):
            for x in range(IMAGE_SIZE_PX - side_px + 1):
                where = slice(y, y + side_px), slice(x, x + side_px)
                change = colour - cover * behind[where]
                left = cover * (shown[where] - behind[where]) - change
                best = max(best, 1 - float((left**2).sum() / (change**2).sum()))
    return best


@dataclass(frozen=True, kw_only=True)
class ConceptScores:
    """Of Momos asked for and of old objects asked for, the share that is there."""

    concept_accuracy: float
    prior_accuracy: float
    images: list[np.ndarray]


def evaluate_concept(generate: ImageGenerator, *, num_prompts: int, num_prior_prompts: int) -> ConceptScores:
    """Momo in front of backgrounds it was never seen in front of, in both languages, and held-out old objects."""
    others = [index for index in range(len(BACKGROUNDS)) if index not in TRAIN_BACKGROUNDS]
    asked = [(others[i % len(others)], ("zh", "en")[i % 2]) for i in range(num_prompts)]
    pictures = generate(
        [make_concept_captions(background)[language] for background, language in asked], range(num_prompts)
    )
    there = [
        measure_presence(picture, b) >= PRESENCE_THRESHOLD for picture, (b, _) in zip(pictures, asked, strict=True)
    ]
    single = CATEGORIES[0]
    samples = sample_held_out(single, num_samples=num_prior_prompts, seed=1, size_px=IMAGE_SIZE_PX)
    drawn = generate(
        [getattr(s, f"text_{('zh', 'en')[i % 2]}") for i, s in enumerate(samples)], range(num_prior_prompts)
    )
    known = evaluate_images(samples, drawn, single, SpriteMatcher(size_px=IMAGE_SIZE_PX))
    return ConceptScores(
        concept_accuracy=float(np.mean(there)), prior_accuracy=known["right"] / known["count"], images=pictures
    )


def train_concept(out: Path, *, model: str, steps: int) -> Path:
    """Train the adapter, and return its folder."""
    sets = out / "sets.toml"
    sets.write_text(f'[[datasets]]\npath = "pictures"\nrepeats = {CONCEPT_REPEATS}\n\n[[datasets]]\npath = "prior"\n')
    config = parse_run_config(
        {
            "task": "finetune",
            "run": {"folder": str(out / "run"), "total_steps": steps, "batch_size": 8},
            "data": {"datasets_file": str(sets), "size_px": IMAGE_SIZE_PX, "cache": str(out / "cache")},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 20, "ema_decay": 0.99},
            "model": {
                "name": model,
                "lora": {"rank": 32, "target_modules": [*ATTENTION_TARGETS, *FEED_FORWARD_TARGETS]},
            },
            "samples": {"prompts": [make_concept_captions(17)["zh"], make_concept_captions(17)["en"]]},
        }
    )
    assert isinstance(config, FinetuneRunConfig)
    train_model(config, resume="auto", should_stop=lambda: False)
    return out / "run" / "export"


def make_before_after_image(before: Sequence[np.ndarray], after: Sequence[np.ndarray], folder: Path) -> Image.Image:
    """What it learnt from, and the same words and noise before and after."""
    given = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    rows = [tile_images(torch.from_numpy(np.stack(row)), columns=12) for row in (given[:12], before[:12], after[:12])]
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    page = stack_images([rows[0], gap, rows[1], gap, rows[2]])
    return Image.fromarray(page).resize((page.shape[1] * 2, page.shape[0] * 2), Image.Resampling.BICUBIC)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_concept", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/new_concept"))
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=24, help="Momos asked for")
    parser.add_argument("--old", type=int, default=96, help="old objects asked for")
    given = parser.parse_args()
    pipe: Any = TextToImagePipeline.from_pretrained(given.model)
    pipe.set_progress_bar_config(disable=True)
    draw = make_image_generator(pipe, size_px=IMAGE_SIZE_PX)
    before = evaluate_concept(draw, num_prompts=given.prompts, num_prior_prompts=given.old)
    began = time.perf_counter()
    write_concept_images(given.out / "pictures")
    write_prior_images(given.out / "prior", draw)
    adapter = train_concept(given.out, model=given.model, steps=given.steps)
    seconds = time.perf_counter() - began
    pipe.load_lora_weights(adapter)
    after = evaluate_concept(draw, num_prompts=given.prompts, num_prior_prompts=given.old)
    report = {
        "training_s": round(seconds, 1),
        "concept_accuracy": {"before": before.concept_accuracy, "after": after.concept_accuracy},
        "prior_accuracy": {"before": before.prior_accuracy, "after": after.prior_accuracy},
    }
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    make_before_after_image(before.images, after.images, given.out / "pictures").save(given.out / "new_concept.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
