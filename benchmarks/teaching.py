"""Teach the embedded model an object it has never seen, from twelve pictures, and see what it knows before and after.

    python -m benchmarks.teaching --out runs/teaching

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
from dianjing.train.config import parse_config
from dianjing.train.evaluate import CATEGORIES, Drawer, held_out_samples, judge, pipeline_drawer
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.pictures import stack, tile
from dianjing.train.running import train
from dianjing.train.stickers import World
from dianjing.train.stickers.backgrounds import BACKGROUNDS, paint
from dianjing.train.stickers.matching import Matcher
from dianjing.train.stickers.rendering import lay_over

SIZE_PX = 64
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")  # what things look like
NAMES = {"zh": "毛毛", "en": "momo"}
TRAINED_ON = (0, 2, 4, 8, 9, 10, 11, 12, 13, 14, 16, 20)  # backgrounds
SIDE_PX = 32
PRIOR, REPEATS = 192, 12  # pictures of old objects, and how often each of a Momo is shown beside them
OVERSAMPLING = 8
EXPLAINED = 0.5  # of what a Momo there would change; more counts as one


def momo(side_px: int) -> np.ndarray:
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


def portrait(background: int) -> np.ndarray:
    """A Momo in the middle."""
    canvas = paint(background, 0, size_px=SIZE_PX).copy()
    corner = (SIZE_PX - SIDE_PX) // 2
    lay_over(canvas, momo(SIDE_PX), x=corner, y=corner)
    return canvas


def write_pictures(folder: Path) -> None:
    """Twelve pictures, with captions in both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, background in enumerate(TRAINED_ON):
        save(folder / f"{index:02}.png", portrait(background), captions(background))


def write_prior(folder: Path, draw: Drawer) -> None:
    """What the model draws of the objects it knows, with what it was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(size_px=SIZE_PX, split="train")
    texts = [{"zh": s.text_zh, "en": s.text_en} for s in (world.picture(3, index) for index in range(PRIOR))]
    pictures = draw([text[("zh", "en")[index % 2]] for index, text in enumerate(texts)], range(PRIOR))
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        save(folder / f"{index:03}.png", picture, text)


def save(path: Path, picture: np.ndarray, texts: dict[str, str]) -> None:
    Image.fromarray(picture).save(path)
    for language, text in texts.items():
        path.with_suffix(f".{language}.txt").write_text(text, encoding="utf-8")


def captions(background: int) -> dict[str, str]:
    behind = BACKGROUNDS[background]
    return {"zh": f"{behind.where_zh[0]}的一只{NAMES['zh']}", "en": f"a {NAMES['en']} {behind.where_en[0]}"}


def explained(picture: np.ndarray, background: int) -> float:
    """How much of what a Momo would change in this background the picture shows: 1 for a perfect one, 0 for none."""
    behind = paint(background, 0, size_px=SIZE_PX).astype(np.float32) / 255
    shown = picture.astype(np.float32) / 255
    best = 0.0
    for side_px in range(24, 45, 2):
        pixels = momo(side_px).astype(np.float32) / 255
        colour, cover = pixels[..., :3], pixels[..., 3:]
        for y in range(SIZE_PX - side_px + 1):
            for x in range(SIZE_PX - side_px + 1):
                where = slice(y, y + side_px), slice(x, x + side_px)
                change = colour - cover * behind[where]
                left = cover * (shown[where] - behind[where]) - change
                best = max(best, 1 - float((left**2).sum() / (change**2).sum()))
    return best


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Of Momos asked for and of old objects asked for, the share that is there."""

    momos: float
    old_objects: float
    pictures: list[np.ndarray]


def examine(draw: Drawer, *, prompts: int, old: int) -> Knowledge:
    """Momo in front of backgrounds it was never seen in front of, in both languages, and held-out old objects."""
    others = [index for index in range(len(BACKGROUNDS)) if index not in TRAINED_ON]
    asked = [(others[i % len(others)], ("zh", "en")[i % 2]) for i in range(prompts)]
    pictures = draw([captions(background)[language] for background, language in asked], range(prompts))
    there = [explained(picture, b) >= EXPLAINED for picture, (b, _) in zip(pictures, asked, strict=True)]
    single = CATEGORIES[0]
    samples = held_out_samples(single, count_=old, seed=1, size_px=SIZE_PX)
    drawn = draw([getattr(s, f"text_{('zh', 'en')[i % 2]}") for i, s in enumerate(samples)], range(old))
    known = judge(samples, drawn, single, Matcher(size_px=SIZE_PX))
    return Knowledge(momos=float(np.mean(there)), old_objects=known["right"] / known["count"], pictures=pictures)


def teach(out: Path, *, model: str, steps: int) -> Path:
    """Train the adapter, and return its folder."""
    sets = out / "sets.toml"
    sets.write_text(f'[[sets]]\npath = "pictures"\nrepeats = {REPEATS}\n\n[[sets]]\npath = "prior"\n')
    config = parse_config(
        {
            "task": "finetune",
            "run": {"folder": str(out / "run"), "total_steps": steps, "batch_size": 8},
            "data": {"sets": str(sets), "size_px": SIZE_PX, "cache": str(out / "cache")},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 20, "ema_decay": 0.99},
            "model": {"name": model, "lora": {"rank": 32, "targets": [*ATTENTION, *FEED_FORWARD]}},
            "samples": {"prompts": [captions(17)["zh"], captions(17)["en"]]},
        }
    )
    assert isinstance(config, FinetuneRun)
    train(config, resume="auto", wants_stop=lambda: False)
    return out / "run" / "export"


def picture_of(before: Sequence[np.ndarray], after: Sequence[np.ndarray], folder: Path) -> Image.Image:
    """What it learnt from, and the same words and noise before and after."""
    given = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    rows = [tile(torch.from_numpy(np.stack(row)), columns=12) for row in (given[:12], before[:12], after[:12])]
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    page = stack([rows[0], gap, rows[1], gap, rows[2]])
    return Image.fromarray(page).resize((page.shape[1] * 2, page.shape[0] * 2), Image.Resampling.BICUBIC)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teaching", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/teaching"))
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=24, help="Momos asked for")
    parser.add_argument("--old", type=int, default=96, help="old objects asked for")
    given = parser.parse_args()
    pipe: Any = TextToImagePipeline.from_pretrained(given.model)
    pipe.set_progress_bar_config(disable=True)
    draw = pipeline_drawer(pipe, size_px=SIZE_PX)
    before = examine(draw, prompts=given.prompts, old=given.old)
    began = time.perf_counter()
    write_pictures(given.out / "pictures")
    write_prior(given.out / "prior", draw)
    adapter = teach(given.out, model=given.model, steps=given.steps)
    seconds = time.perf_counter() - began
    pipe.load_lora_weights(adapter)
    after = examine(draw, prompts=given.prompts, old=given.old)
    report = {
        "seconds_of_teaching": round(seconds, 1),
        "momos": {"before": before.momos, "after": after.momos},
        "old_objects": {"before": before.old_objects, "after": after.old_objects},
    }
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    picture_of(before.pictures, after.pictures, given.out / "pictures").save(given.out / "teaching.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
