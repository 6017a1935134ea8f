"""Boxes are placed in free cells, never fully over others, and an edit without room is refused."""

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
from dianjing.pipelines.conversation.errors import EditError
from dianjing.pipelines.conversation.scene import POSITIONS, Box, Scene, SceneObject, deserialize_scene, serialize_scene

CAT = Scene(objects=(SceneObject(name="cat", boxes=(layout.get_position_box("center"),)),), background="grass")
PAIR = apply_edit(
    None, NewScene(specs=(ObjectSpec(name="cat"), ObjectSpec(name="dog")), relation="left", background="sea")
)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_box_of_a_position_lies_there(position):
    assert layout.get_position_box(position).position == position
    assert layout.get_position_box(position, side=3).position == position


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_adjacent_boxes_have_their_relation_and_no_overlap(relation):
    first, second = layout.make_adjacent_boxes(relation)
    assert layout.has_relation(first, second, relation)
    assert not layout.has_relation(second, first, relation)
    assert first.count_shared_cells(second) == 0


def test_a_new_object_goes_to_free_cells_and_moves_no_other():
    scene = apply_edit(PAIR, AddObject(spec=ObjectSpec(name="star")))
    assert scene.objects[:2] == PAIR.objects
    (star,) = scene.objects[2].boxes
    assert all(star.count_shared_cells(box) == 0 for box in PAIR.boxes)


@pytest.mark.parametrize("position", [position for position in POSITIONS if position != "center"])
def test_around_a_centered_object_every_other_position_is_free(position):
    (box,) = apply_edit(CAT, AddObject(spec=ObjectSpec(name="dog", position=position))).objects[1].boxes
    assert layout.is_at_position(box, position)
    assert box.count_shared_cells(CAT.boxes[0]) <= 3


def test_a_full_scene_takes_no_more_objects():
    four = apply_edit(CAT, SetObjectCount(target=0, count=4))
    with pytest.raises(EditError, match="at most 4"):
        apply_edit(four, AddObject(spec=ObjectSpec(name="dog")))
    three = apply_edit(apply_edit(PAIR, AddObject(spec=ObjectSpec(name="star"))), MoveObject(target=2, position="top"))
    with pytest.raises(EditError, match="3 kinds"):
        apply_edit(three, AddObject(spec=ObjectSpec(name="bird")))


def test_an_empty_scene_is_refused():
    with pytest.raises(EditError, match="would be empty"):
        apply_edit(CAT, RemoveObject(target=0))
    with pytest.raises(EditError, match="no image yet"):
        apply_edit(None, SetBackground(background="sea"))


def test_bigger_and_smaller_keep_the_center_and_have_limits():
    box = CAT.boxes[0]
    grown = apply_edit(CAT, ResizeObject(target=0, direction="bigger")).boxes[0]
    shrunk = apply_edit(CAT, ResizeObject(target=0, direction="smaller")).boxes[0]
    assert shrunk.side < box.side < grown.side
    assert max(abs(a - b) for a, b in zip(grown.center, box.center, strict=True)) <= 0.5
    with pytest.raises(EditError, match="smallest possible"):
        apply_repeatedly(ResizeObject(target=0, direction="smaller"))
    with pytest.raises(EditError, match="no room"):
        apply_repeatedly(ResizeObject(target=0, direction="bigger"))


def apply_repeatedly(edit):
    scene = CAT
    for _ in range(9):
        scene = apply_edit(scene, edit)


def test_an_edit_of_one_object_leaves_the_others():
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


def test_a_move_to_an_anchor_has_the_relation():
    moved = apply_edit(PAIR, MoveObject(target=0, relation="above", anchor=1))
    assert layout.has_loose_relation(moved.objects[0].boxes[0], PAIR.objects[1].boxes[0], "above")
    assert moved.objects[1] == PAIR.objects[1]


def test_without_room_beyond_the_anchor_both_objects_move():
    moved = apply_edit(PAIR, MoveObject(target=0, relation="right", anchor=1))
    assert layout.has_relation(moved.objects[0].boxes[0], moved.objects[1].boxes[0], "right")


def test_a_lower_count_keeps_the_first_boxes():
    two = apply_edit(PAIR, SetObjectCount(target=0, count=2))
    assert apply_edit(two, SetObjectCount(target=0, count=1)).objects == PAIR.objects


def test_a_scene_survives_json():
    assert deserialize_scene(serialize_scene(PAIR)) == PAIR


@pytest.mark.parametrize(
    "box", [{"x": 6, "y": 0, "side": 4}, {"x": 0, "y": -1, "side": 4}, {"x": 0, "y": 0, "side": 9}]
)
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(ValueError, match="give a whole number"):
        Box(**box)
