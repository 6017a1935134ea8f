"""Fine-tune the bundled model on a new object from twelve images, and measure its accuracy before and after.

    python -m benchmarks.new_concept --out runs/new_concept

The new object, Momo 毛毛, is trained in front of some backgrounds and evaluated in front of others.
To preserve the known objects, the model also trains on images of them that it generated before (prior preservation:
DreamBooth, arXiv 2208.12242); they are evaluated on others. Writes images, the adapter, report.json and
new_concept.png.
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
FEED_FORWARD_TARGETS = ("ff.net.0.proj", "ff.net.2")  # which hold appearance
CONCEPT_NAMES = {"zh": "毛毛", "en": "momo"}
TRAIN_BACKGROUNDS = (0, 2, 4, 8, 9, 10, 11, 12, 13, 14, 16, 20)
CONCEPT_SIZE_PX = 32
NUM_PRIOR_IMAGES = 192  # generated images of known objects
CONCEPT_REPEATS = 12  # of each image of the new object, in one epoch
OVERSAMPLING = 8
PRESENCE_THRESHOLD = 0.5  # a measured presence above it counts as an image of the object


def render_momo(side_px: int) -> np.ndarray:
    """Render the new object, a drop with eyes, feet and an antenna: premultiplied uint8 (side_px, side_px, 4)."""
    unit = side_px * OVERSAMPLING / 100
    image = Image.new("RGBA", (side_px * OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(image)

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
    pixels = np.asarray(image.resize((side_px, side_px), Image.Resampling.BOX).convert("RGBa"))
    return pixels.copy()


def render_concept_image(background: int) -> np.ndarray:
    """Render the new object at the center of a background: uint8 (H, W, 3)."""
    canvas = render_background(background, 0, size_px=IMAGE_SIZE_PX).copy()
    corner = (IMAGE_SIZE_PX - CONCEPT_SIZE_PX) // 2
    composite_premultiplied(canvas, render_momo(CONCEPT_SIZE_PX), x=corner, y=corner)
    return canvas


def write_concept_images(folder: Path) -> None:
    """Write one training image for each of TRAIN_BACKGROUNDS, with captions in both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, background in enumerate(TRAIN_BACKGROUNDS):
        save_captioned_image(
            folder / f"{index:02}.png", render_concept_image(background), make_concept_captions(background)
        )


def write_prior_images(folder: Path, generate: ImageGenerator) -> None:
    """Generate and write images of known objects, with the captions of their prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    world = StickerWorld(size_px=IMAGE_SIZE_PX, split="train")
    texts = [
        {"zh": s.text_zh, "en": s.text_en}
        for s in (world.get_image_sample(3, index) for index in range(NUM_PRIOR_IMAGES))
    ]
    images = generate([text[("zh", "en")[index % 2]] for index, text in enumerate(texts)], range(NUM_PRIOR_IMAGES))
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        save_captioned_image(folder / f"{index:03}.png", image, text)


def save_captioned_image(path: Path, image: np.ndarray, captions: dict[str, str]) -> None:
    """Write an image, with one text file a language beside it."""
    Image.fromarray(image).save(path)
    for language, text in captions.items():
        path.with_suffix(f".{language}.txt").write_text(text, encoding="utf-8")


def make_concept_captions(background: int) -> dict[str, str]:
    """Return the captions of the new object in front of a background, by language."""
    entry = BACKGROUNDS[background]
    return {
        "zh": f"{entry.location_phrases_zh[0]}的一只{CONCEPT_NAMES['zh']}",
        "en": f"a {CONCEPT_NAMES['en']} {entry.location_phrases_en[0]}",
    }


def measure_presence(image: np.ndarray, background: int) -> float:
    """Return the explained share of the change that the new object makes to a background, at the best size and place.

    1 for a perfect image of the object, 0 or less for none. image: uint8 (H, W, 3).
    """
    empty = render_background(background, 0, size_px=IMAGE_SIZE_PX).astype(np.float32) / 255
    pixels = image.astype(np.float32) / 255
    best = 0.0
    for side_px in range(24, 45, 2):
        sprite = render_momo(side_px).astype(np.float32) / 255
        premultiplied_rgb, alpha = sprite[..., :3], sprite[..., 3:]
        for y in range(IMAGE_SIZE_PX - side_px + 1):
            for x in range(IMAGE_SIZE_PX - side_px + 1):
                window = slice(y, y + side_px), slice(x, x + side_px)
                change = premultiplied_rgb - alpha * empty[window]
                residual = alpha * (pixels[window] - empty[window]) - change
                best = max(best, 1 - float((residual**2).sum() / (change**2).sum()))
    return best


@dataclass(frozen=True, kw_only=True)
class ConceptScores:
    """Share of the prompted images that show the new object, and a known object; and the images of the new one."""

    concept_accuracy: float
    prior_accuracy: float
    images: list[np.ndarray]


def evaluate_concept(generate: ImageGenerator, *, num_prompts: int, num_prior_prompts: int) -> ConceptScores:
    """Evaluate the new object in front of other backgrounds in both languages, and held-out images of known objects."""
    others = [index for index in range(len(BACKGROUNDS)) if index not in TRAIN_BACKGROUNDS]
    backgrounds = [others[i % len(others)] for i in range(num_prompts)]
    prompts = [make_concept_captions(each)[("zh", "en")[i % 2]] for i, each in enumerate(backgrounds)]
    images = generate(prompts, range(num_prompts))
    presences = [measure_presence(image, each) for image, each in zip(images, backgrounds, strict=True)]
    category = CATEGORIES[0]
    samples = sample_held_out(category, num_samples=num_prior_prompts, seed=1, size_px=IMAGE_SIZE_PX)
    prior_prompts = [getattr(sample, f"text_{('zh', 'en')[i % 2]}") for i, sample in enumerate(samples)]
    prior_images = generate(prior_prompts, range(num_prior_prompts))
    scores = evaluate_images(samples, prior_images, category, SpriteMatcher(size_px=IMAGE_SIZE_PX))
    return ConceptScores(
        concept_accuracy=float(np.mean([presence >= PRESENCE_THRESHOLD for presence in presences])),
        prior_accuracy=scores["correct"] / scores["count"],
        images=images,
    )


def train_concept(out: Path, *, model: str, steps: int) -> Path:
    """Train an adapter on the written images, and return its folder."""
    datasets_file = out / "datasets.toml"
    datasets_file.write_text(
        f'[[datasets]]\npath = "images"\nrepeats = {CONCEPT_REPEATS}\n\n[[datasets]]\npath = "prior"\n'
    )
    config = parse_run_config(
        {
            "task": "finetune",
            "run": {"folder": str(out / "run"), "total_steps": steps, "batch_size": 8},
            "data": {"datasets_file": str(datasets_file), "size_px": IMAGE_SIZE_PX, "cache_folder": str(out / "cache")},
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
    """Return one image of three rows: training images, and generated ones before and after training, same seeds."""
    trained = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    rows = [tile_images(torch.from_numpy(np.stack(row)), columns=12) for row in (trained[:12], before[:12], after[:12])]
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    stacked = stack_images([rows[0], gap, rows[1], gap, rows[2]])
    return Image.fromarray(stacked).resize((stacked.shape[1] * 2, stacked.shape[0] * 2), Image.Resampling.BICUBIC)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_concept", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/new_concept"))
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=24, help="evaluated images of the new object")
    parser.add_argument("--prior-prompts", type=int, default=96, help="evaluated images of known objects")
    arguments = parser.parse_args()
    pipe: Any = TextToImagePipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    generate = make_image_generator(pipe, size_px=IMAGE_SIZE_PX)
    before = evaluate_concept(generate, num_prompts=arguments.prompts, num_prior_prompts=arguments.prior_prompts)
    start_s = time.perf_counter()
    write_concept_images(arguments.out / "images")
    write_prior_images(arguments.out / "prior", generate)
    adapter = train_concept(arguments.out, model=arguments.model, steps=arguments.steps)
    training_s = time.perf_counter() - start_s
    pipe.load_lora_weights(adapter)
    after = evaluate_concept(generate, num_prompts=arguments.prompts, num_prior_prompts=arguments.prior_prompts)
    report = {
        "training_s": round(training_s, 1),
        "concept_accuracy": {"before": before.concept_accuracy, "after": after.concept_accuracy},
        "prior_accuracy": {"before": before.prior_accuracy, "after": after.prior_accuracy},
    }
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    make_before_after_image(before.images, after.images, arguments.out / "images").save(
        arguments.out / "new_concept.png"
    )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
