"""Where objects go: beside what is there, never over all of it, and refused where there is no room."""

import pytest

from dianjing.pipelines.conversation import layout
from dianjing.pipelines.conversation.edits import (
    AddObject,
    MoveObject,
    NewScene,
    ObjectSpec,
    RecolourObject,
    RemoveObject,
    ReplaceObject,
    ResizeObject,
    SetBackground,
    SetObjectCount,
    apply_edit,
)
from dianjing.pipelines.conversation.messages import EditError
from dianjing.pipelines.conversation.scene import POSITIONS, Box, Scene, SceneObject, deserialize_scene, serialize_scene

CAT = Scene(objects=(SceneObject(name="cat", boxes=(layout.get_position_box("center"),)),), background="grass")
PAIR = apply_edit(
    None, NewScene(specs=(ObjectSpec(name="cat"), ObjectSpec(name="dog")), relation="left", background="sea")
)


@pytest.mark.parametrize("place", POSITIONS)
def test_the_box_of_a_place_is_in_it(place):
    assert layout.get_position_box(place).position == place
    assert layout.get_position_box(place, side=3).position == place


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_a_pair_stands_as_its_relation_says_and_apart(relation):
    first, second = layout.make_adjacent_boxes(relation)
    assert layout.has_relation(first, second, relation)
    assert not layout.has_relation(second, first, relation)
    assert first.count_shared_cells(second) == 0


def test_what_comes_later_goes_where_nothing_is_and_moves_nothing():
    scene = apply_edit(PAIR, AddObject(spec=ObjectSpec(name="star")))
    assert scene.objects[:2] == PAIR.objects
    (star,) = scene.objects[2].boxes
    assert all(star.count_shared_cells(box) == 0 for box in PAIR.boxes)


@pytest.mark.parametrize("place", [place for place in POSITIONS if place != "center"])
def test_beside_one_in_the_middle_there_is_room_everywhere_else(place):
    (box,) = apply_edit(CAT, AddObject(spec=ObjectSpec(name="dog", position=place))).objects[1].boxes
    assert layout.is_at_position(box, place)
    assert box.count_shared_cells(CAT.boxes[0]) <= 3


def test_a_full_picture_takes_no_more():
    four = apply_edit(CAT, SetObjectCount(target=0, count=4))
    with pytest.raises(EditError, match="at most 4"):
        apply_edit(four, AddObject(spec=ObjectSpec(name="dog")))
    three = apply_edit(apply_edit(PAIR, AddObject(spec=ObjectSpec(name="star"))), MoveObject(target=2, position="top"))
    with pytest.raises(EditError, match="3 kinds"):
        apply_edit(three, AddObject(spec=ObjectSpec(name="bird")))


def test_nothing_is_not_a_picture():
    with pytest.raises(EditError, match="nothing would be left"):
        apply_edit(CAT, RemoveObject(target=0))
    with pytest.raises(EditError, match="no picture yet"):
        apply_edit(None, SetBackground(background="sea"))


def test_bigger_and_smaller_keep_the_centre_and_end_somewhere():
    box = CAT.boxes[0]
    grown = apply_edit(CAT, ResizeObject(target=0, direction="bigger")).boxes[0]
    shrunk = apply_edit(CAT, ResizeObject(target=0, direction="smaller")).boxes[0]
    assert shrunk.side < box.side < grown.side
    assert max(abs(a - b) for a, b in zip(grown.center, box.center, strict=True)) <= 0.5
    with pytest.raises(EditError, match="as small as"):
        again_and_again(ResizeObject(target=0, direction="smaller"))
    with pytest.raises(EditError, match="no room"):
        again_and_again(ResizeObject(target=0, direction="bigger"))


def again_and_again(edit):
    scene = CAT
    for _ in range(9):
        scene = apply_edit(scene, edit)


def test_one_change_leaves_the_others_alone():
    for edit in (
        ResizeObject(target=0, direction="smaller"),
        RecolourObject(target=0, colour="red"),
        ReplaceObject(target=0, spec=ObjectSpec(name="fox")),
        SetObjectCount(target=0, count=2),
        MoveObject(target=0, position="top"),
    ):
        assert apply_edit(PAIR, edit).objects[1] == PAIR.objects[1]
        assert apply_edit(PAIR, edit).objects[0] != PAIR.objects[0]
        assert apply_edit(PAIR, edit).background == "sea"


def test_moved_beside_another_it_is_there():
    moved = apply_edit(PAIR, MoveObject(target=0, relation="above", anchor=1))
    assert layout.has_loose_relation(moved.objects[0].boxes[0], PAIR.objects[1].boxes[0], "above")
    assert moved.objects[1] == PAIR.objects[1]


def test_where_there_is_no_room_beside_the_other_both_make_way():
    moved = apply_edit(PAIR, MoveObject(target=0, relation="right", anchor=1))
    assert layout.has_relation(moved.objects[0].boxes[0], moved.objects[1].boxes[0], "right")


def test_fewer_leaves_the_first_ones_where_they_are():
    two = apply_edit(PAIR, SetObjectCount(target=0, count=2))
    assert apply_edit(two, SetObjectCount(target=0, count=1)).objects == PAIR.objects


def test_a_scene_survives_json():
    assert deserialize_scene(serialize_scene(PAIR)) == PAIR


@pytest.mark.parametrize(
    "box", [{"x": 6, "y": 0, "side": 4}, {"x": 0, "y": -1, "side": 4}, {"x": 0, "y": 0, "side": 9}]
)
def test_a_box_outside_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="give a whole number"):
        Box(**box)
