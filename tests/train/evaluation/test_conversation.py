"""Scripted talks say what they ask for, and the judge sees what is there and what is not."""

from types import SimpleNamespace

import pytest
import torch

from dianjing.train.evaluation.conversation import (
    DetectedScene,
    evaluate_dialogue,
    is_edit_applied,
    measure_preservation,
    summarize_dialogues,
)
from dianjing.train.evaluation.dialogues import EDIT_WEIGHTS, DialogueTurn, ExpectedObjects, generate_dialogues
from dianjing.train.stickers.matching import Detection, Detections

CAT, DOG, FISH = 0, 1, 56
MATCHER = SimpleNamespace(size_px=64, classify_colour=lambda pixels, seen: seen.colour)


def seen(thing, x_px, y_px, size_px=32, colour=None):
    return Detection(class_id=thing, colour=colour, x_px=x_px, y_px=y_px, size_px=size_px, explained_share=0.9)


def view(*objects, background=9):
    return DetectedScene(
        pixels=torch.zeros(3, 64, 64), detections=Detections(background=background, objects=objects), matcher=MATCHER
    )


def test_talks_are_the_same_for_a_seed_and_have_three_to_six_lines():
    talks = generate_dialogues(60, seed=5)
    assert talks == generate_dialogues(60, seed=5)
    assert talks != generate_dialogues(60, seed=6)
    assert [language for language, _ in talks] == ["zh", "en"] * 30
    assert all(3 <= len(talk) <= 6 for _, talk in talks)
    assert all(talk[0].edit_type == "draw" for _, talk in talks)
    assert {line.edit_type for _, talk in generate_dialogues(300, seed=5) for line in talk} == {"draw", *EDIT_WEIGHTS}


def test_chinese_talks_are_chinese_and_english_ones_ascii():
    for language, talk in generate_dialogues(60, seed=5):
        assert all(line.text.isascii() == (language == "en") for line in talk)


def test_a_talk_stays_within_what_one_picture_takes():
    for _, talk in generate_dialogues(200, seed=5):
        for line in talk:
            assert 1 <= len(line.expected) <= 3
            assert sum(shown.count for shown in line.expected) <= 4
            assert len({shown.class_id for shown in line.expected}) == len(line.expected)


ONE = (ExpectedObjects(class_id=CAT),)
RED_FISH = ExpectedObjects(class_id=FISH, colour=0)
JUDGED = [
    ("draw", ONE, {}, view(seen(CAT, 16, 16)), view(seen(DOG, 16, 16))),
    ("draw", ONE, {}, view(seen(CAT, 16, 16)), view(seen(CAT, 16, 16), background=3)),
    ("background", ONE, {}, view(seen(CAT, 0, 0)), view(seen(CAT, 0, 0), background=3)),
    ("add", (*ONE, ExpectedObjects(class_id=DOG)), {"target_index": 1}, view(seen(DOG, 0, 0)), view(seen(CAT, 0, 0))),
    (
        "add",
        (*ONE, ExpectedObjects(class_id=DOG)),
        {"target_index": 1, "side": "left", "anchor_index": 0},
        view(seen(DOG, 0, 0), seen(CAT, 32, 0)),
        view(seen(DOG, 32, 0), seen(CAT, 0, 0)),
    ),
    (
        "remove",
        ONE,
        {"target_index": None, "removed_class_id": DOG},
        view(seen(CAT, 0, 0)),
        view(seen(CAT, 0, 0), seen(DOG, 32, 0)),
    ),
    ("replace", ONE, {"removed_class_id": DOG}, view(seen(CAT, 0, 0)), view(seen(CAT, 0, 0), seen(DOG, 32, 0))),
    ("move", ONE, {"cell": 3}, view(seen(CAT, 0, 0)), view(seen(CAT, 16, 0))),
    ("move", ONE, {"cell": 8}, view(seen(CAT, 32, 32)), view(seen(CAT, 32, 0))),
    ("bigger", ONE, {}, view(seen(CAT, 8, 8, 48)), view(seen(CAT, 16, 16, 32))),
    ("smaller", ONE, {}, view(seen(CAT, 8, 8, 24)), view(seen(CAT, 16, 16, 32))),
    (
        "count",
        (ExpectedObjects(class_id=CAT, count=2),),
        {},
        view(seen(CAT, 0, 0), seen(CAT, 32, 0)),
        view(seen(CAT, 0, 0)),
    ),
    ("recolour", (RED_FISH,), {}, view(seen(FISH, 0, 0, colour=0)), view(seen(FISH, 0, 0, colour=4))),
]


@pytest.mark.parametrize(("kind", "shown", "more", "right", "wrong"), JUDGED)
def test_a_line_is_fulfilled_by_what_it_asks_for_and_nothing_else(kind, shown, more, right, wrong):
    line = DialogueTurn(edit_type=kind, text="", expected=shown, background=9, **{"target_index": 0, **more})
    before = view(seen(CAT, 16, 16, 32))
    assert is_edit_applied(line, right, before)
    assert not is_edit_applied(line, wrong, before)


BEFORE = view(seen(CAT, 0, 16), seen(DOG, 32, 16))


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (view(seen(CAT, 0, 20), seen(DOG, 32, 16)), set()),
        (view(seen(DOG, 32, 16)), {"objects_preserved", "positions_preserved", "preserved"}),
        (view(seen(CAT, 0, 32), seen(DOG, 32, 16)), {"positions_preserved", "preserved"}),
        (view(seen(CAT, 0, 16), seen(DOG, 32, 16), background=3), {"background_preserved", "preserved"}),
        (view(seen(CAT, 0, 16)), set()),  # the dog is spoken of
    ],
)
def test_what_was_not_mentioned_must_be_there_as_it_was(after, lost):
    shown = (ExpectedObjects(class_id=CAT), ExpectedObjects(class_id=DOG))
    line = DialogueTurn(
        edit_type="recolour",
        text="",
        expected=shown,
        background=9,
        target_index=1,
        mentioned_class_ids=frozenset({DOG}),
    )
    assert {name for name, kept in measure_preservation(line, shown, after, BEFORE).items() if not kept} == lost


class Refusing:
    """A conversation that understands nothing."""

    turns = ()

    def send(self, text):
        raise ValueError("what?")


def test_a_refused_turn_is_not_fulfilled_and_keeps_nothing_to_judge():
    ((language, talk),) = generate_dialogues(1, seed=5)
    rows, pictures = evaluate_dialogue(talk, Refusing(), MATCHER)
    assert pictures == []
    report = summarize_dialogues([(language, rows)])
    assert report["all"] == {
        "turns": len(talk),
        "refused": len(talk),
        "edit_applied": 0.0,
        "preserved": None,
        "objects_preserved": None,
        "positions_preserved": None,
        "background_preserved": None,
    }
    assert report["languages"]["en"]["turns"] == 0
