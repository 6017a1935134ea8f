"""Where objects go: beside what is there, never over all of it, and refused where there is no room."""

import pytest

from dianjing.pipelines.conversation import layout
from dianjing.pipelines.conversation.edits import (
    Add,
    Draw,
    Move,
    Recolour,
    Remove,
    Replace,
    Resize,
    SetBackground,
    SetCount,
    Wanted,
    apply,
)
from dianjing.pipelines.conversation.refusals import NotPossibleError
from dianjing.pipelines.conversation.scenes import PLACES, Box, Scene, Thing, from_json, to_json

CAT = Scene(things=(Thing(name="cat", boxes=(layout.place_box("middle"),)),), background="grass")
PAIR = apply(None, Draw(wanted=(Wanted(name="cat"), Wanted(name="dog")), relation="left", background="sea"))


@pytest.mark.parametrize("place", PLACES)
def test_the_box_of_a_place_is_in_it(place):
    assert layout.place_box(place).place == place
    assert layout.place_box(place, side=3).place == place


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_a_pair_stands_as_its_relation_says_and_apart(relation):
    first, second = layout.beside(relation)
    assert layout.is_beside(first, second, relation)
    assert not layout.is_beside(second, first, relation)
    assert first.overlap(second) == 0


def test_what_comes_later_goes_where_nothing_is_and_moves_nothing():
    scene = apply(PAIR, Add(wanted=Wanted(name="star")))
    assert scene.things[:2] == PAIR.things
    (star,) = scene.things[2].boxes
    assert all(star.overlap(box) == 0 for box in PAIR.boxes)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "middle"])
def test_beside_one_in_the_middle_there_is_room_everywhere_else(place):
    (box,) = apply(CAT, Add(wanted=Wanted(name="dog", place=place))).things[1].boxes
    assert layout.is_in(box, place)
    assert box.overlap(CAT.boxes[0]) <= 3


def test_a_full_picture_takes_no_more():
    four = apply(CAT, SetCount(of=0, count=4))
    with pytest.raises(NotPossibleError, match="at most 4"):
        apply(four, Add(wanted=Wanted(name="dog")))
    three = apply(apply(PAIR, Add(wanted=Wanted(name="star"))), Move(of=2, place="top"))
    with pytest.raises(NotPossibleError, match="3 kinds"):
        apply(three, Add(wanted=Wanted(name="bird")))


def test_nothing_is_not_a_picture():
    with pytest.raises(NotPossibleError, match="nothing would be left"):
        apply(CAT, Remove(of=0))
    with pytest.raises(NotPossibleError, match="no picture yet"):
        apply(None, SetBackground(background="sea"))


def test_bigger_and_smaller_keep_the_centre_and_end_somewhere():
    box = CAT.boxes[0]
    grown = apply(CAT, Resize(of=0, to="bigger")).boxes[0]
    shrunk = apply(CAT, Resize(of=0, to="smaller")).boxes[0]
    assert shrunk.side < box.side < grown.side
    assert max(abs(a - b) for a, b in zip(grown.centre, box.centre, strict=True)) <= 0.5
    with pytest.raises(NotPossibleError, match="as small as"):
        again_and_again(Resize(of=0, to="smaller"))
    with pytest.raises(NotPossibleError, match="no room"):
        again_and_again(Resize(of=0, to="bigger"))


def again_and_again(edit):
    scene = CAT
    for _ in range(9):
        scene = apply(scene, edit)


def test_one_change_leaves_the_others_alone():
    for edit in (
        Resize(of=0, to="smaller"),
        Recolour(of=0, colour="red"),
        Replace(of=0, wanted=Wanted(name="fox")),
        SetCount(of=0, count=2),
        Move(of=0, place="top"),
    ):
        assert apply(PAIR, edit).things[1] == PAIR.things[1]
        assert apply(PAIR, edit).things[0] != PAIR.things[0]
        assert apply(PAIR, edit).background == "sea"


def test_moved_beside_another_it_is_there():
    moved = apply(PAIR, Move(of=0, relation="above", anchor=1))
    assert layout.is_rather_beside(moved.things[0].boxes[0], PAIR.things[1].boxes[0], "above")
    assert moved.things[1] == PAIR.things[1]


def test_where_there_is_no_room_beside_the_other_both_make_way():
    moved = apply(PAIR, Move(of=0, relation="right", anchor=1))
    assert layout.is_beside(moved.things[0].boxes[0], moved.things[1].boxes[0], "right")


def test_fewer_leaves_the_first_ones_where_they_are():
    two = apply(PAIR, SetCount(of=0, count=2))
    assert apply(two, SetCount(of=0, count=1)).things == PAIR.things


def test_a_scene_survives_json():
    assert from_json(to_json(PAIR)) == PAIR


@pytest.mark.parametrize(
    "box", [{"x": 6, "y": 0, "side": 4}, {"x": 0, "y": -1, "side": 4}, {"x": 0, "y": 0, "side": 9}]
)
def test_a_box_outside_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="give a whole number"):
        Box(**box)
