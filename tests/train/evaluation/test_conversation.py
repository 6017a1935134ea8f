"""Scripted dialogues and the checks of their images: what is requested must be there, and nothing else may change."""

from types import SimpleNamespace

import pytest
import torch

from dianjing.errors import DianjingError
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
MATCHER = SimpleNamespace(size_px=64, classify_colour=lambda pixels, detection: detection.colour)


def detect(class_id, x_px, y_px, size_px=32, colour=None):
    return Detection(class_id=class_id, colour=colour, x_px=x_px, y_px=y_px, size_px=size_px, explained_share=0.9)


def make_scene(*objects, background=9):
    return DetectedScene(
        pixels=torch.zeros(3, 64, 64), detections=Detections(background=background, objects=objects), matcher=MATCHER
    )


def test_dialogues_depend_on_the_seed_alone_and_have_three_to_six_turns():
    dialogues = generate_dialogues(60, seed=5)
    assert dialogues == generate_dialogues(60, seed=5)
    assert dialogues != generate_dialogues(60, seed=6)
    assert [language for language, _ in dialogues] == ["zh", "en"] * 30
    assert all(3 <= len(dialogue) <= 6 for _, dialogue in dialogues)
    assert all(dialogue[0].edit_type == "new_scene" for _, dialogue in dialogues)
    assert {turn.edit_type for _, dialogue in generate_dialogues(300, seed=5) for turn in dialogue} == {
        "new_scene",
        *EDIT_WEIGHTS,
    }


def test_chinese_dialogues_are_chinese_and_english_ones_ascii():
    for language, dialogue in generate_dialogues(60, seed=5):
        assert all(turn.text.isascii() == (language == "en") for turn in dialogue)


def test_a_dialogue_keeps_to_three_classes_and_four_objects():
    for _, dialogue in generate_dialogues(200, seed=5):
        for turn in dialogue:
            assert 1 <= len(turn.expected) <= 3
            assert sum(each.count for each in turn.expected) <= 4
            assert len({each.class_id for each in turn.expected}) == len(turn.expected)


ONE = (ExpectedObjects(class_id=CAT),)
RED_FISH = ExpectedObjects(class_id=FISH, colour=0)
EDITS = [
    ("new_scene", ONE, {}, make_scene(detect(CAT, 16, 16)), make_scene(detect(DOG, 16, 16))),
    ("new_scene", ONE, {}, make_scene(detect(CAT, 16, 16)), make_scene(detect(CAT, 16, 16), background=3)),
    ("background", ONE, {}, make_scene(detect(CAT, 0, 0)), make_scene(detect(CAT, 0, 0), background=3)),
    (
        "add",
        (*ONE, ExpectedObjects(class_id=DOG)),
        {"target_index": 1},
        make_scene(detect(DOG, 0, 0)),
        make_scene(detect(CAT, 0, 0)),
    ),
    (
        "add",
        (*ONE, ExpectedObjects(class_id=DOG)),
        {"target_index": 1, "side": "left", "anchor_index": 0},
        make_scene(detect(DOG, 0, 0), detect(CAT, 32, 0)),
        make_scene(detect(DOG, 32, 0), detect(CAT, 0, 0)),
    ),
    (
        "remove",
        ONE,
        {"target_index": None, "removed_class_id": DOG},
        make_scene(detect(CAT, 0, 0)),
        make_scene(detect(CAT, 0, 0), detect(DOG, 32, 0)),
    ),
    (
        "replace",
        ONE,
        {"removed_class_id": DOG},
        make_scene(detect(CAT, 0, 0)),
        make_scene(detect(CAT, 0, 0), detect(DOG, 32, 0)),
    ),
    ("move", ONE, {"cell": 3}, make_scene(detect(CAT, 0, 0)), make_scene(detect(CAT, 16, 0))),
    ("move", ONE, {"cell": 8}, make_scene(detect(CAT, 32, 32)), make_scene(detect(CAT, 32, 0))),
    ("bigger", ONE, {}, make_scene(detect(CAT, 8, 8, 48)), make_scene(detect(CAT, 16, 16, 32))),
    ("smaller", ONE, {}, make_scene(detect(CAT, 8, 8, 24)), make_scene(detect(CAT, 16, 16, 32))),
    (
        "count",
        (ExpectedObjects(class_id=CAT, count=2),),
        {},
        make_scene(detect(CAT, 0, 0), detect(CAT, 32, 0)),
        make_scene(detect(CAT, 0, 0)),
    ),
    ("recolour", (RED_FISH,), {}, make_scene(detect(FISH, 0, 0, colour=0)), make_scene(detect(FISH, 0, 0, colour=4))),
]


@pytest.mark.parametrize(("edit_type", "expected", "changes", "correct", "wrong"), EDITS)
def test_an_edit_is_applied_if_the_image_shows_what_it_requests(edit_type, expected, changes, correct, wrong):
    turn = DialogueTurn(edit_type=edit_type, text="", expected=expected, background=9, **{"target_index": 0, **changes})
    before = make_scene(detect(CAT, 16, 16, 32))
    assert is_edit_applied(turn, correct, before)
    assert not is_edit_applied(turn, wrong, before)


BEFORE = make_scene(detect(CAT, 0, 16), detect(DOG, 32, 16))


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (make_scene(detect(CAT, 0, 20), detect(DOG, 32, 16)), set()),
        (make_scene(detect(DOG, 32, 16)), {"objects_preserved", "positions_preserved", "preserved"}),
        (make_scene(detect(CAT, 0, 32), detect(DOG, 32, 16)), {"positions_preserved", "preserved"}),
        (make_scene(detect(CAT, 0, 16), detect(DOG, 32, 16), background=3), {"background_preserved", "preserved"}),
        (make_scene(detect(CAT, 0, 16)), set()),  # the dog is mentioned
    ],
)
def test_unmentioned_objects_must_stay_as_they_were(after, lost):
    expected = (ExpectedObjects(class_id=CAT), ExpectedObjects(class_id=DOG))
    turn = DialogueTurn(
        edit_type="recolour",
        text="",
        expected=expected,
        background=9,
        target_index=1,
        mentioned_class_ids=frozenset({DOG}),
    )
    assert {name for name, ok in measure_preservation(turn, expected, after, BEFORE).items() if not ok} == lost


class RefusingConversation:
    """A conversation that understands nothing."""

    turns = ()

    def send(self, text):
        raise DianjingError("no_image_yet")


def test_a_refused_turn_counts_as_not_applied_and_has_no_image():
    ((language, dialogue),) = generate_dialogues(1, seed=5)
    rows, images = evaluate_dialogue(dialogue, RefusingConversation(), MATCHER)
    assert images == []
    report = summarize_dialogues([(language, rows)])
    assert report["all"] == {
        "turns": len(dialogue),
        "refused": len(dialogue),
        "edit_applied": 0.0,
        "preserved": None,
        "objects_preserved": None,
        "positions_preserved": None,
        "background_preserved": None,
    }
    assert report["languages"]["en"]["turns"] == 0
