"""How well a model changes its own pictures as it is told, turn by turn, measured against the sticker world.

    python -m dianjing.train.evaluate_talk --model sticker --count 60 --out talk.json

Talks come from dianjing.train.dialogues. Every picture is read back by matching it against all sprites. A turn is
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

from dianjing.pipelines.conversation.rewriting import Rewriter
from dianjing.pipelines.conversation.talk import Conversation, Turn
from dianjing.train.dialogues import Line, Shown, Talk, write_talks
from dianjing.train.evaluate import to_tensor
from dianjing.train.pictures import tile
from dianjing.train.stickers.matching import Matcher, Reading, Seen

PLACE_TOLERANCE = 1 / 8  # of the picture's side
LEAST_CHANGE = 1.05  # of the size, for bigger and smaller
NAMES = ("fulfilled", "kept", "objects_kept", "places_kept", "background_kept")


@dataclass(frozen=True, kw_only=True)
class View:
    """A picture as it is read back."""

    pixels: Tensor
    reading: Reading
    matcher: Matcher

    def found(self, thing: int) -> list[Seen]:
        return [seen for seen in self.reading.objects if seen.thing == thing]

    def shows(self, shown: Shown) -> bool:
        """Exactly as many as there should be, in their colour."""
        found = self.found(shown.thing)
        is_coloured = shown.colour is None or all(self.matcher.colour_of(self.pixels, s) == shown.colour for s in found)
        return len(found) == shown.count and is_coloured

    def thirds(self, seen: Seen) -> tuple[int, int]:
        column, row = (int(min(max(value / self.matcher.size_px, 0), 0.99) * 3) for value in seen.centre)
        return row, column


def look(picture: Image.Image, matcher: Matcher) -> View:
    pixels = to_tensor(np.asarray(picture.convert("RGB")))
    return View(pixels=pixels, reading=matcher.read(pixels), matcher=matcher)


def is_fulfilled(line: Line, view: View, before: View | None) -> bool:
    """Whether what a line asks for is seen; an undo is judged by its picture, not here."""
    if line.kind == "background":
        return view.reading.background == line.background
    if line.kind == "draw" and line.background is not None and view.reading.background != line.background:
        return False
    if line.gone is not None and view.found(line.gone):
        return False
    if line.subject is None:
        return True
    subject = line.shown[line.subject]
    if line.kind in ("bigger", "smaller"):
        return before is not None and _has_grown(line.kind, view.found(subject.thing), before.found(subject.thing))
    asked = line.shown if line.kind == "draw" else (subject,)
    return all(view.shows(each) for each in asked) and _is_there(line, view)


def _has_grown(kind: str, now: Sequence[Seen], before: Sequence[Seen]) -> bool:
    if not now or not before:
        return False
    ratio = max(s.size_px for s in now) / max(s.size_px for s in before)
    return ratio >= LEAST_CHANGE if kind == "bigger" else ratio <= 1 / LEAST_CHANGE


def _is_there(line: Line, view: View) -> bool:
    """Where a place or a side was asked for: in its third or corner; beside by a tenth of their size (GenEval)."""
    assert line.subject is not None
    found = view.found(line.shown[line.subject].thing)
    if line.place is not None:
        row, column = divmod(line.place, 3)
        return any(
            (row == 1 or view.thirds(seen)[0] == row) and (column == 1 or view.thirds(seen)[1] == column)
            for seen in found
        )
    if line.side is None or line.beside is None:
        return True
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[line.side]
    return any(
        sign * (a.centre[axis] - b.centre[axis]) > (a.size_px + b.size_px) / 20
        for a in found
        for b in view.found(line.shown[line.beside].thing)
    )


def what_is_kept(line: Line, shown_before: Sequence[Shown], view: View, before: View) -> dict[str, bool]:
    """Of the objects that were there, were seen, and are not mentioned."""
    things = {each.thing for each in shown_before} - line.mentioned
    left = list(view.reading.objects)
    objects = places = True
    reach_px = PLACE_TOLERANCE * view.matcher.size_px
    for seen in (seen for seen in before.reading.objects if seen.thing in things):
        same = [other for other in left if other.thing == seen.thing]
        if not same:
            objects = places = False
            continue
        nearest = min(same, key=lambda other: _far(other, seen))
        places = places and _far(nearest, seen) <= reach_px
        left.remove(nearest)
    background = line.kind == "background" or view.reading.background == before.reading.background
    return {
        "objects_kept": objects,
        "places_kept": places,
        "background_kept": background,
        "kept": objects and places and background,
    }


def _far(a: Seen, b: Seen) -> float:
    return max(abs(p - q) for p, q in zip(a.centre, b.centre, strict=True))


def judge_talk(talk: Talk, conversation: Conversation, matcher: Matcher) -> tuple[list[dict[str, Any]], list[Any]]:
    """A row of figures for every turn, and the pictures; None where nothing is to be judged."""
    rows: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    view: View | None = None
    shown_before: tuple[Shown, ...] = ()
    for line in talk:
        began = time.monotonic()
        before, back_to = view, conversation.turns[-2].image if len(conversation.turns) > 1 else None
        turn: Turn | None = None
        refused = None
        try:
            turn = conversation.say(line.text)
        except ValueError as error:
            refused = str(error)
        row: dict[str, Any] = {"kind": line.kind, "text": line.text, "refused": refused, **dict.fromkeys(NAMES)}
        row["seconds"] = time.monotonic() - began
        if turn is None:
            row["fulfilled"] = False
        elif line.kind == "undo":
            row["fulfilled"] = turn.image is back_to
            view = look(turn.image, matcher)
        else:
            view = look(turn.image, matcher)
            row["fulfilled"] = is_fulfilled(line, view, before)
            if before is not None:
                row |= what_is_kept(line, shown_before, view, before)
        row["prompt"] = None if turn is None else turn.prompt
        if turn is not None:
            pictures.append(turn.image)
            shown_before = line.shown
        rows.append(row)
    return rows, pictures


def summary(judged: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> dict[str, Any]:
    """Rates over the turns: of all, of each language, and of each kind of turn."""
    rows = [(language, row) for language, talk in judged for row in talk]

    def rates(chosen: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
        mine = [row for language, row in rows if chosen(language, row)]
        found: dict[str, Any] = {"turns": len(mine), "refused": sum(row["refused"] is not None for row in mine)}
        for name in NAMES:
            judged_rows = [row[name] for row in mine if row[name] is not None]
            found[name] = round(sum(judged_rows) / len(judged_rows), 4) if judged_rows else None
        return found

    kinds = sorted({row["kind"] for _, row in rows})
    return {
        "talks": len(judged),
        "all": rates(lambda language, row: True),
        "languages": {one: rates(lambda language, row, one=one: language == one) for one in ("zh", "en")},  # type: ignore[misc]
        "kinds": {kind: rates(lambda language, row, kind=kind: row["kind"] == kind) for kind in kinds},  # type: ignore[misc]
        "median_seconds_a_turn": round(median(row["seconds"] for _, row in rows), 3),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.evaluate_talk", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--chat-model", default=None, help="a chat model as rewriter (default: the embedded rules)")
    parser.add_argument("--count", type=int, default=60, help="talks, Chinese and English in turn (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("talk.json"))
    parser.add_argument("--grid", type=Path, default=None, help="also a .png of all pictures, a talk a row")
    given = parser.parse_args()

    first = Conversation(given.model)
    rewriter: Rewriter = first.rewriter
    if given.chat_model is not None:
        from dianjing.pipelines.conversation.chat_model import ChatModel

        rewriter = ChatModel.from_pretrained(given.chat_model, rules=first.rewriter)  # type: ignore[arg-type]
    pipe = first.pipe
    size_px = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    matcher = Matcher.for_pictures(size_px)
    judged, shown = [], []
    talks = write_talks(given.count, seed=given.seed)
    for index, (language, talk) in enumerate(tqdm(talks, unit="talk")):
        rows, pictures = judge_talk(talk, Conversation(pipe, seed=index, rewriter=rewriter), matcher)
        judged.append((language, rows))
        blank = [np.full((size_px, size_px, 3), 255, np.uint8)] * (6 - len(pictures))
        shown += [*map(np.asarray, pictures), *blank]
    report = {"model": given.model, "chat_model": given.chat_model, "seed": given.seed, **summary(judged)}
    turns = [{"language": language, "turns": rows} for language, rows in judged]
    text = json.dumps(report | {"judged": turns}, ensure_ascii=False, indent=1)
    given.out.write_text(text + "\n", encoding="utf-8")
    if given.grid is not None:
        Image.fromarray(tile(torch.from_numpy(np.stack(shown)), columns=6)).save(given.grid)
    print(json.dumps(report, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
