"""Evaluation of conversational editing against the ground truth of the sticker world, turn by turn.

    python -m dianjing.train.evaluation.conversation --model sticker --count 60 --out conversation.json

Dialogues come from dianjing.train.evaluation.dialogues. Every image is read back by template matching. An edit is
applied if the image shows what was requested; a turn preserves the image if everything that it does not mention is as
detected in the image before: the objects, their positions (to an eighth of the image) and the background.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.parsing.base import InstructionParser
from dianjing.pipelines.conversation.session import Conversation
from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.dialogues import MAX_TURNS, Dialogue, DialogueTurn, ExpectedObjects, generate_dialogues
from dianjing.train.evaluation.image_generation import image_to_tensor
from dianjing.train.evaluation.settings import LANGUAGES, exit_on_user_error
from dianjing.train.stickers.matching import Detection, Detections, SpriteMatcher

POSITION_TOLERANCE = 1 / 8  # in image sides
MIN_SIZE_RATIO = 1.05  # of bigger and smaller
METRIC_NAMES = ("edit_applied", "preserved", "objects_preserved", "positions_preserved", "background_preserved")


@dataclass(frozen=True, kw_only=True)
class DetectedScene:
    """The image of a turn, as float32 (3, S, S) on [0, 1], with what the matcher detects in it."""

    pixels: Tensor
    detections: Detections
    matcher: SpriteMatcher

    def select_class(self, class_id: int) -> list[Detection]:
        """Return the detected objects of a class."""
        return [each for each in self.detections.objects if each.class_id == class_id]

    def contains(self, expected: ExpectedObjects) -> bool:
        """Check that exactly the expected number of objects is there, all in the expected colour."""
        detected = self.select_class(expected.class_id)
        has_colour = expected.colour is None or all(
            self.matcher.classify_colour(self.pixels, each) == expected.colour for each in detected
        )
        return len(detected) == expected.count and has_colour

    def get_cell(self, detection: Detection) -> tuple[int, int]:
        """Return row and column (0 to 2) of the third of the image that holds a centre."""
        column, row = (int(min(max(value / self.matcher.size_px, 0), 0.99) * 3) for value in detection.center)
        return row, column


def detect_scene(image: Image.Image, matcher: SpriteMatcher) -> DetectedScene:
    """Detect the background and the objects of an image."""
    pixels = image_to_tensor(np.asarray(image.convert("RGB")))
    return DetectedScene(pixels=pixels, detections=matcher.detect(pixels), matcher=matcher)


def is_edit_applied(turn: DialogueTurn, after: DetectedScene, before: DetectedScene | None) -> bool:
    """Check that the image after a turn shows what was requested; turns of type "undo" are compared elsewhere."""
    if turn.edit_type == "background":
        return after.detections.background == turn.background
    if turn.edit_type == "new_scene" and turn.background is not None and after.detections.background != turn.background:
        return False
    if turn.removed_class_id is not None and after.select_class(turn.removed_class_id):
        return False
    if turn.target_index is None:
        return True
    target = turn.expected[turn.target_index]
    if turn.edit_type in ("bigger", "smaller"):
        return before is not None and _is_resized(
            turn.edit_type, after.select_class(target.class_id), before.select_class(target.class_id)
        )
    requested = turn.expected if turn.edit_type == "new_scene" else (target,)
    return all(after.contains(each) for each in requested) and _is_at_position(turn, after)


def _is_resized(edit_type: str, after: Sequence[Detection], before: Sequence[Detection]) -> bool:
    if not after or not before:
        return False
    ratio = max(each.size_px for each in after) / max(each.size_px for each in before)
    return ratio >= MIN_SIZE_RATIO if edit_type == "bigger" else ratio <= 1 / MIN_SIZE_RATIO


def _is_at_position(turn: DialogueTurn, after: DetectedScene) -> bool:
    """Check the requested cell, or the requested side by a tenth of both sizes (as in GenEval)."""
    assert turn.target_index is not None, "the caller checks it"
    targets = after.select_class(turn.expected[turn.target_index].class_id)
    if turn.cell is not None:
        row, column = divmod(turn.cell, 3)
        cells = [after.get_cell(each) for each in targets]
        return any((row == 1 or cell[0] == row) and (column == 1 or cell[1] == column) for cell in cells)
    if turn.side is None or turn.anchor_index is None:
        return True
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[turn.side]
    return any(
        sign * (a.center[axis] - b.center[axis]) > (a.size_px + b.size_px) / 20
        for a in targets
        for b in after.select_class(turn.expected[turn.anchor_index].class_id)
    )


def measure_preservation(
    turn: DialogueTurn, expected_before: Sequence[ExpectedObjects], after: DetectedScene, before: DetectedScene
) -> dict[str, bool]:
    """Check that the objects, positions and background that a turn does not mention are as in the image before.

    Objects count if they were expected and detected before.
    """
    class_ids = {each.class_id for each in expected_before} - turn.mentioned_class_ids
    remaining = list(after.detections.objects)
    has_objects = has_positions = True
    tolerance_px = POSITION_TOLERANCE * after.matcher.size_px
    for old in (each for each in before.detections.objects if each.class_id in class_ids):
        candidates = [each for each in remaining if each.class_id == old.class_id]
        if not candidates:
            has_objects = has_positions = False
            continue
        nearest = min(candidates, key=lambda each: _measure_distance(each, old))
        has_positions = has_positions and _measure_distance(nearest, old) <= tolerance_px
        remaining.remove(nearest)
    has_background = turn.edit_type == "background" or after.detections.background == before.detections.background
    return {
        "objects_preserved": has_objects,
        "positions_preserved": has_positions,
        "background_preserved": has_background,
        "preserved": has_objects and has_positions and has_background,
    }


def _measure_distance(a: Detection, b: Detection) -> float:
    """Chebyshev distance of two centres, in pixels."""
    return max(abs(p - q) for p, q in zip(a.center, b.center, strict=True))


def evaluate_dialogue(
    dialogue: Dialogue, conversation: Conversation, matcher: SpriteMatcher
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Run a dialogue; return a row of metrics for each turn (None if a metric does not apply), and the images."""
    rows: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    scene: DetectedScene | None = None
    expected_before: tuple[ExpectedObjects, ...] = ()
    for scripted in dialogue:
        started = time.monotonic()
        scene_before = scene
        image_before_last = conversation.turns[-2].image if len(conversation.turns) > 1 else None
        row: dict[str, Any] = {"edit_type": scripted.edit_type, "text": scripted.text, "refused": None}
        row |= dict.fromkeys(METRIC_NAMES)
        rows.append(row)
        try:
            turn = conversation.send(scripted.text)
        except DianjingError as error:
            row |= {"refused": str(error), "edit_applied": False, "prompt": None}
            row["seconds"] = time.monotonic() - started
            continue
        row |= {"prompt": turn.prompt, "seconds": time.monotonic() - started}
        scene = detect_scene(turn.image, matcher)
        if scripted.edit_type == "undo":
            row["edit_applied"] = turn.image is image_before_last
        else:
            row["edit_applied"] = is_edit_applied(scripted, scene, scene_before)
            if scene_before is not None:
                row |= measure_preservation(scripted, expected_before, scene, scene_before)
        images.append(turn.image)
        expected_before = scripted.expected
    return rows, images


def summarize_dialogues(results: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> dict[str, Any]:
    """Compute the rates over all turns, over those of each language, and over those of each edit type.

    results: language and rows of each dialogue.
    """
    rows = [(language, row) for language, turns in results for row in turns]

    def get_rates(selected: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rates: dict[str, Any] = {"turns": len(selected), "refused": sum(row["refused"] is not None for row in selected)}
        for name in METRIC_NAMES:
            values = [row[name] for row in selected if row[name] is not None]
            rates[name] = round(sum(values) / len(values), 4) if values else None
        return rates

    edit_types = sorted({row["edit_type"] for _, row in rows})
    return {
        "dialogues": len(results),
        "all": get_rates([row for _, row in rows]),
        "languages": {each: get_rates([row for language, row in rows if language == each]) for each in LANGUAGES},
        "edit_types": {each: get_rates([row for _, row in rows if row["edit_type"] == each]) for each in edit_types},
        "median_seconds_per_turn": round(median(row["seconds"] for _, row in rows), 3),
    }


def write_conversation_report(
    *, model: str, chat_model: str | None, count: int, seed: int, out: Path, grid_path: Path | None
) -> None:
    """Evaluate `count` dialogues, write the report with all turns to a file, and print its rates.

    chat_model: a folder or Hub id of a chat model that parses instructions; None: the built-in rules. grid_path: a PNG
    of all images, one dialogue per row.
    """
    first = Conversation(model)
    parser: InstructionParser = first.parser
    if chat_model is not None:
        from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser

        parser = ChatModelParser.from_pretrained(chat_model, rule_parser=first.parser)  # type: ignore[arg-type]
    pipe = first.pipe
    size_px = pipe.default_size_px
    matcher = SpriteMatcher.for_images(size_px)
    results, grid = [], []
    for index, (language, dialogue) in enumerate(tqdm(generate_dialogues(count, seed=seed), unit="dialogue")):
        rows, images = evaluate_dialogue(dialogue, Conversation(pipe, seed=index, parser=parser), matcher)
        results.append((language, rows))
        blank = [np.full((size_px, size_px, 3), 255, np.uint8)] * (MAX_TURNS - len(images))
        grid += [*map(np.asarray, images), *blank]
    report = {"model": model, "chat_model": chat_model, "seed": seed, **summarize_dialogues(results)}
    details = [{"language": language, "turns": rows} for language, rows in results]
    text = json.dumps(report | {"results": details}, ensure_ascii=False, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    if grid_path is not None:
        Image.fromarray(tile_images(torch.from_numpy(np.stack(grid)), columns=MAX_TURNS)).save(grid_path)
    print(json.dumps(report, ensure_ascii=False, indent=1))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.conversation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id (default: sticker)")
    parser.add_argument("--chat-model", help="chat model that parses instructions (default: the built-in rules)")
    parser.add_argument("--count", type=int, default=60, help="dialogues, Chinese and English in turn (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the dialogues (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("conversation.json"), help="file for the report")
    parser.add_argument("--grid", type=Path, help="also write a PNG of all images, one dialogue per row")
    return parser


def _main() -> None:
    parser = _make_parser()
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_conversation_report(
            model=arguments.model,
            chat_model=arguments.chat_model,
            count=arguments.count,
            seed=arguments.seed,
            out=arguments.out,
            grid_path=arguments.grid,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
