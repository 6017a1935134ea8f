"""Evaluation of sloppy prompts: how many pictures show what was meant.

    python -m dianjing.train.evaluation.sloppy_prompts --prompts FILE.toml --out report

The file lists prompts by language, each with the objects, counts, colors, background and position that were meant, or
that nothing in it can be drawn. Every picture is read back by template matching; its seed is the index of its prompt.
Writes sloppy_report.json and sloppy_LANGUAGE.png, the pictures in the order of the prompts.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from dianjing.errors import DianjingError
from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.image_generation import (
    ClassifyColour,
    ImageGenerator,
    image_to_tensor,
    make_image_generator,
)
from dianjing.train.evaluation.settings import (
    LANGUAGES,
    exit_on_user_error,
    make_evaluation_parser,
    parse_evaluation_settings,
)
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.captions import CELLS_EN, pluralize
from dianjing.train.stickers.matching import Detection, Detections, SpriteMatcher
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHEET_COLUMNS = 10
Meaning = Mapping[str, Any]  # one row of the file


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """Result of one prompt. reason: what is wrong, "" for a right picture. image: None where none was generated."""

    kind: str
    prompt: str
    reason: str
    image: np.ndarray | None


def find_class(name: str) -> int | None:
    """Find the id of a sprite class by an English name; None for one that the sticker world does not have."""
    forms = {name, pluralize(name)}  # some sprites show several: "cherries"
    return next((each.id for each in load_sprite_classes() if forms & {*each.names_en}), None)


def find_mistake(meaning: Meaning, detections: Detections, classify_colour: ClassifyColour, *, size_px: int) -> str:
    """Compare what was meant with what a picture shows; return the first difference, or ""."""
    found: dict[str, list[Detection]] = {}
    for item in meaning.get("objects", ()):
        class_id = find_class(item["name"])
        objects = [each for each in detections.objects if each.class_id == class_id]
        count = item.get("count")
        if not objects or (count is not None and len(objects) != count):
            return f"{len(objects)} of {item['name']}"
        if "color" in item and any(COLOURS[classify_colour(each)].name_en != item["color"] for each in objects):
            return f"{item['name']} is not {item['color']}"
        found[item["name"]] = objects
    for name in meaning.get("absent", ()):
        if any(each.class_id == find_class(name) for each in detections.objects):
            return f"there is a {name}"
    if "background" in meaning and not _is_background(detections.background, meaning["background"]):
        return f"background is {BACKGROUNDS[detections.background].name_en}"
    if "position" in meaning:
        (objects,) = found.values()
        cells = [_get_cell(each, size_px) for each in objects]
        if not any(meaning["position"] in CELLS_EN[cell][0] for cell in cells):
            return f"position is {[CELLS_EN[cell][0] for cell in cells]}"
    if "relation" in meaning:
        first, relation, second = meaning["relation"]
        axis = {"left of": 0, "above": 1}[relation]
        if not found[first][0].center[axis] < found[second][0].center[axis]:
            return f"{first} is not {relation} {second}"
    return ""


def _is_background(index: int, name: str) -> bool:
    return BACKGROUNDS[index].name_en in (name, f"{name} background")


def _get_cell(detection: Detection, size_px: int) -> int:
    x, y = (int(value * 3 / size_px) for value in detection.center)
    return 3 * y + x


def evaluate_prompts(
    rows: Sequence[Meaning], generate: ImageGenerator, matcher: SpriteMatcher, *, description: str
) -> list[PromptResult]:
    """Generate and check a picture for each row; an error is right where nothing is known, and wrong elsewhere."""
    results = []
    for seed, row in enumerate(tqdm(rows, desc=description, unit="image")):
        image = None
        try:
            (image,) = generate([row["prompt"]], [seed])
        except DianjingError as error:
            reason = "" if row.get("nothing") else f"refused: {error.message_id}"
        else:
            reason = "drawn" if row.get("nothing") else _find_mistake_in_image(row, image, matcher)
        results.append(PromptResult(kind=row["kind"], prompt=row["prompt"], reason=reason, image=image))
    return results


def _find_mistake_in_image(row: Meaning, image: np.ndarray, matcher: SpriteMatcher) -> str:
    pixels = image_to_tensor(image)
    detections = matcher.detect(pixels)
    return find_mistake(row, detections, partial(matcher.classify_colour, pixels), size_px=matcher.size_px)


def summarize_results(results: Mapping[str, Sequence[PromptResult]]) -> dict[str, Any]:
    """Convert results by language to rates, by language and by language and kind, with every mistake."""
    report: dict[str, Any] = {}
    for language, rows in results.items():
        kinds = Counter(row.kind for row in rows)
        right = Counter(row.kind for row in rows if not row.reason)
        report[language] = round(sum(right.values()) / len(rows), 4)
        report[f"{language}_by_kind"] = {kind: f"{right[kind]} of {count}" for kind, count in kinds.items()}
        report[f"{language}_mistakes"] = {row.prompt: row.reason for row in rows if row.reason}
    return report


def write_sheet(results: Sequence[PromptResult], path: Path, *, size_px: int) -> None:
    """Write the pictures of all prompts, grey where there is none, as one PNG."""
    empty = np.full((size_px, size_px, 3), 128, np.uint8)
    images = [empty if each.image is None else each.image for each in results]
    Image.fromarray(tile_images(torch.from_numpy(np.stack(images)), columns=SHEET_COLUMNS)).save(path)


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.sloppy_prompts",
        description=__doc__.split("\n")[0],
        default_count=100,
        count_help="prompts per language, from the first one on",
    )
    parser.add_argument("--prompts", type=Path, required=True, help="TOML file of prompts and what was meant")
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        settings = parse_evaluation_settings(arguments)
        from dianjing.pipelines.text_to_image import TextToImagePipeline

        pipeline: Any = settings.prepare(TextToImagePipeline.from_pretrained(settings.model))
        size_px = pipeline.default_size_px
        generate = make_image_generator(pipeline, size_px=size_px, **settings.generation_settings)
        matcher = SpriteMatcher.for_images(size_px, settings.device)
        rows = tomllib.loads(arguments.prompts.read_text(encoding="utf-8"))
        results = {
            language: evaluate_prompts(rows[language][: settings.num_samples], generate, matcher, description=language)
            for language in LANGUAGES
        }
        report = summarize_results(results) | {"model": settings.model, **settings.generation_settings}
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        (arguments.out / "sloppy_report.json").write_text(text, encoding="utf-8")
        for language in LANGUAGES:
            write_sheet(results[language], arguments.out / f"sloppy_{language}.png", size_px=size_px)
        print(text)


if __name__ == "__main__":
    _main()
