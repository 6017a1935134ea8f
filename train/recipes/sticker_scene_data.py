"""Scenes of the sticker world as a data set, for the recipes that fine-tune the bundled model.

python -m dianjing.train.recipes.sticker_scene_data few-steps scenes --count 2400
python -m dianjing.train.recipes.sticker_scene_data lineart lineart --count 8000   # with line drawings
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dianjing.pipelines.control_maps import detect_canny_edges
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.rendering import render_instances
from dianjing.train.stickers.world import StickerSample
from dianjing.weights.registry import STICKER_SIZE_PX

DETAIL_FACTORS = (1, 2, 4)  # drawings are made at this multiple of the size, and reduced
OBJECTS_ONLY_SHARE = 0.5  # of drawings without lines of the background, as a person would make them
MIN_GRAY, MAX_GRAY = 96, 255  # of the lines
LINEART, FEW_STEPS = "lineart", "few-steps"
SCENES = {
    LINEART: CurriculumStage(
        scene_weights={"single": 0.35, "count": 0.2, "pair": 0.33, "trio": 0.12}, grid_px=(4, 16), coloured_share=0.3
    ),
    FEW_STEPS: CurriculumStage(
        scene_weights={"single": 0.5, "count": 0.2, "pair": 0.28, "trio": 0.02},
        grid_px=(16,),
        coloured_share=0.4,
        sized_share=0.5,
        canonical_share=0.5,
    ),
}


def draw_lines(sample: StickerSample, rng: random.Random) -> Image.Image:
    """Draw the lines of a scene, white on black: its edges, or those of its objects alone, coarse or fine."""
    detailed = replace(sample, size_px=STICKER_SIZE_PX * rng.choice(DETAIL_FACTORS))
    is_plain = rng.random() < OBJECTS_ONLY_SHARE
    pixels = render_instances(sample.scene, size_px=detailed.size_px) if is_plain else detailed.image
    lines = (
        detect_canny_edges(Image.fromarray(pixels))
        .convert("L")
        .resize((STICKER_SIZE_PX, STICKER_SIZE_PX), Image.Resampling.BOX)
    )
    gray = np.asarray(lines).astype(np.float32)
    strength = rng.uniform(MIN_GRAY, MAX_GRAY)
    return Image.fromarray((gray * strength / max(1.0, gray.max())).astype(np.uint8)).convert("RGB")


def write_scenes(folder: Path, recipe: str, *, count: int, seed: int, split: str = "train") -> None:
    """Write scenes and their captions to a folder with a metadata.jsonl, for LINEART with their drawings.

    recipe: a key of SCENES. split: of `StickerWorld`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = StickerWorld(size_px=STICKER_SIZE_PX, split=split, stages=(SCENES[recipe],))
    rows = []
    for position in range(count):
        sample = world.get_image_sample(seed, position)
        names = {"file_name": f"{position:06}.png"}
        Image.fromarray(sample.image).save(folder / names["file_name"])
        if recipe == LINEART:
            names["control_image"] = f"{position:06}.control.png"
            draw_lines(sample, random.Random(f"{seed} {position}")).save(folder / names["control_image"])
        rows.append(names | {"text_zh": sample.text_zh, "text_en": sample.text_en})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", choices=list(SCENES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=91)
    arguments = parser.parse_args()
    write_scenes(arguments.folder, arguments.recipe, count=arguments.count, seed=arguments.seed)


if __name__ == "__main__":
    _main()
