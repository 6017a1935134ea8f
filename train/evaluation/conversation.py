"""How well a model changes its own pictures as it is told, turn by turn, measured against the sticker world.

    python -m dianjing.train.evaluation.conversation --model sticker --count 60 --out talk.json

Talks come from dianjing.train.evaluation.dialogues. Every picture is read back by matching it against all sprites. A turn is
fulfilled when what it asked for is seen; it is kept when all that it did not mention is as it was seen one picture
before: the objects, their places (to an eighth of the picture) and the background.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.pipelines.conversation.parsing.base import InstructionParser
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.conversation.turn import Turn
from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.dialogues import Dialogue, DialogueTurn, ExpectedObjects, generate_dialogues
from dianjing.train.evaluation.image_generation import image_to_tensor
from dianjing.train.stickers.matching import Detection, Detections, SpriteMatcher

POSITION_TOLERANCE = 1 / 8  # of the picture's side
MIN_SIZE_RATIO = 1.05  # of the size, for bigger and smaller
METRIC_NAMES = ("edit_applied", "preserved", "objects_preserved", "positions_preserved", "background_preserved")


@dataclass(frozen=True, kw_only=True)
class DetectedScene:
    """A picture as it is read back."""

    pixels: Tensor
    detections: Detections
    matcher: SpriteMatcher

    def select_class(self, class_id: int) -> list[Detection]:
        return [seen for seen in self.detections.objects if seen.class_id == class_id]

    def contains(self, expected: ExpectedObjects) -> bool:
        """Exactly as many as there should be, in their colour."""
        found = self.select_class(expected.class_id)
        is_coloured = expected.colour is None or all(
            self.matcher.classify_colour(self.pixels, s) == expected.colour for s in found
        )
        return len(found) == expected.count and is_coloured

    def get_cell(self, detection: Detection) -> tuple[int, int]:
        column, row = (int(min(max(value / self.matcher.size_px, 0), 0.99) * 3) for value in detection.center)
        return row, column


def detect_scene(image: Image.Image, matcher: SpriteMatcher) -> DetectedScene:
    pixels = image_to_tensor(np.asarray(image.convert("RGB")))
    return DetectedScene(pixels=pixels, detections=matcher.detect(pixels), matcher=matcher)


def is_edit_applied(turn: DialogueTurn, after: DetectedScene, before: DetectedScene | None) -> bool:
    """Whether what a line asks for is seen; an undo is judged by its picture, not here."""
    if turn.edit_type == "background":
        return after.detections.background == turn.background
    if turn.edit_type == "draw" and turn.background is not None and after.detections.background != turn.background:
        return False
    if turn.removed_class_id is not None and after.select_class(turn.removed_class_id):
        return False
    if turn.target_index is None:
        return True
    subject = turn.expected[turn.target_index]
    if turn.edit_type in ("bigger", "smaller"):
        return before is not None and _is_resized(
            turn.edit_type, after.select_class(subject.class_id), before.select_class(subject.class_id)
        )
    asked = turn.expected if turn.edit_type == "draw" else (subject,)
    return all(after.contains(each) for each in asked) and _is_at_position(turn, after)


def _is_resized(edit_type: str, after: Sequence[Detection], before: Sequence[Detection]) -> bool:
    if not after or not before:
        return False
    ratio = max(s.size_px for s in after) / max(s.size_px for s in before)
    return ratio >= MIN_SIZE_RATIO if edit_type == "bigger" else ratio <= 1 / MIN_SIZE_RATIO


def _is_at_position(turn: DialogueTurn, after: DetectedScene) -> bool:
    """Where a place or a side was asked for: in its third or corner; beside by a tenth of their size (GenEval)."""
    assert turn.target_index is not None
    found = after.select_class(turn.expected[turn.target_index].class_id)
    if turn.cell is not None:
        row, column = divmod(turn.cell, 3)
        return any(
            (row == 1 or after.get_cell(seen)[0] == row) and (column == 1 or after.get_cell(seen)[1] == column)
            for seen in found
        )
    if turn.side is None or turn.anchor_index is None:
        return True
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[turn.side]
    return any(
        sign * (a.center[axis] - b.center[axis]) > (a.size_px + b.size_px) / 20
        for a in found
        for b in after.select_class(turn.expected[turn.anchor_index].class_id)
    )


def measure_preservation(
    turn: DialogueTurn, expected_before: Sequence[ExpectedObjects], after: DetectedScene, before: DetectedScene
) -> dict[str, bool]:
    """Of the objects that were there, were seen, and are not mentioned."""
    things = {each.class_id for each in expected_before} - turn.mentioned_class_ids
    left = list(after.detections.objects)
    objects = places = True
    reach_px = POSITION_TOLERANCE * after.matcher.size_px
    for seen in (seen for seen in before.detections.objects if seen.class_id in things):
        same = [other for other in left if other.class_id == seen.class_id]
        if not same:
            objects = places = False
            continue
        nearest = min(same, key=lambda other: _measure_distance(other, seen))
        places = places and _measure_distance(nearest, seen) <= reach_px
        left.remove(nearest)
    background = turn.edit_type == "background" or after.detections.background == before.detections.background
    return {
        "objects_preserved": objects,
        "positions_preserved": places,
        "background_preserved": background,
        "preserved": objects and places and background,
    }


def _measure_distance(a: Detection, b: Detection) -> float:
    return max(abs(p - q) for p, q in zip(a.center, b.center, strict=True))


def evaluate_dialogue(
    dialogue: Dialogue, conversation: Conversation, matcher: SpriteMatcher
) -> tuple[list[dict[str, Any]], list[Any]]:
    """A row of figures for every turn, and the pictures; None where nothing is to be judged."""
    rows: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    view: DetectedScene | None = None
    shown_before: tuple[ExpectedObjects, ...] = ()
    for line in dialogue:
        began = time.monotonic()
        before, back_to = view, conversation.turns[-2].image if len(conversation.turns) > 1 else None
        turn: Turn | None = None
        refused = None
        try:
            turn = conversation.send(line.text)
        except ValueError as error:
            refused = str(error)
        row: dict[str, Any] = {
            "edit_type": line.edit_type,
            "text": line.text,
            "refused": refused,
            **dict.fromkeys(METRIC_NAMES),
        }
        row["seconds"] = time.monotonic() - began
        if turn is None:
            row["edit_applied"] = False
        elif line.edit_type == "undo":
            row["edit_applied"] = turn.image is back_to
            view = detect_scene(turn.image, matcher)
        else:
            view = detect_scene(turn.image, matcher)
            row["edit_applied"] = is_edit_applied(line, view, before)
            if before is not None:
                row |= measure_preservation(line, shown_before, view, before)
        row["prompt"] = None if turn is None else turn.prompt
        if turn is not None:
            pictures.append(turn.image)
            shown_before = line.expected
        rows.append(row)
    return rows, pictures


def summarize_dialogues(results: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> dict[str, Any]:
    """Rates over the turns: of all, of each language, and of each kind of turn."""
    rows = [(language, row) for language, talk in results for row in talk]

    def rates(chosen: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
        mine = [row for language, row in rows if chosen(language, row)]
        found: dict[str, Any] = {"turns": len(mine), "refused": sum(row["refused"] is not None for row in mine)}
        for name in METRIC_NAMES:
            judged_rows = [row[name] for row in mine if row[name] is not None]
            found[name] = round(sum(judged_rows) / len(judged_rows), 4) if judged_rows else None
        return found

    kinds = sorted({row["edit_type"] for _, row in rows})
    return {
        "dialogues": len(results),
        "all": rates(lambda language, row: True),
        "languages": {one: rates(lambda language, row, one=one: language == one) for one in ("zh", "en")},  # type: ignore[misc]
        "edit_types": {kind: rates(lambda language, row, kind=kind: row["edit_type"] == kind) for kind in kinds},  # type: ignore[misc]
        "median_seconds_per_turn": round(median(row["seconds"] for _, row in rows), 3),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.conversation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--chat-model", default=None, help="a chat model as rewriter (default: the embedded rules)")
    parser.add_argument("--count", type=int, default=60, help="talks, Chinese and English in turn (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("talk.json"))
    parser.add_argument("--grid", type=Path, default=None, help="also a .png of all pictures, a talk a row")
    given = parser.parse_args()

    first = Conversation(given.model)
    rewriter: InstructionParser = first.parser
    if given.chat_model is not None:
        from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser

        rewriter = ChatModelParser.from_pretrained(given.chat_model, rule_parser=first.parser)  # type: ignore[arg-type]
    pipe = first.pipe
    matcher = SpriteMatcher(size_px=pipe.transformer.config.sample_size * pipe.vae_scale_factor)
    judged, shown = [], []
    talks = generate_dialogues(given.count, seed=given.seed)
    for index, (language, talk) in enumerate(tqdm(talks, unit="talk")):
        rows, pictures = evaluate_dialogue(talk, Conversation(pipe, seed=index, parser=rewriter), matcher)
        judged.append((language, rows))
        blank = [np.full((matcher.size_px, matcher.size_px, 3), 255, np.uint8)] * (6 - len(pictures))
        shown += [*map(np.asarray, pictures), *blank]
    report = {"model": given.model, "chat_model": given.chat_model, "seed": given.seed, **summarize_dialogues(judged)}
    turns = [{"language": language, "turns": rows} for language, rows in judged]
    text = json.dumps(report | {"results": turns}, ensure_ascii=False, indent=1)
    given.out.write_text(text + "\n", encoding="utf-8")
    if given.grid is not None:
        Image.fromarray(tile_images(torch.from_numpy(np.stack(shown)), columns=6)).save(given.grid)
    print(json.dumps(report, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
