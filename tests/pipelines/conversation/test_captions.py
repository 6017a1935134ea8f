"""The sentence of a scene says what is in it, in words that the rule_parser read back."""

import pytest

from dianjing.pipelines.conversation.captions import caption_object, caption_scene
from dianjing.pipelines.conversation.edits import AddObject, NewScene, ObjectSpec, SetObjectCount, apply_edit
from dianjing.pipelines.conversation.layout import get_position_box
from dianjing.pipelines.conversation.scene import SceneObject

SCENES = [
    ((ObjectSpec(name="cat"),), None, "grass", "a cat on the grass", "草地上的一只小猫"),
    ((ObjectSpec(name="egg", colour="red", count=2),), None, None, "two red eggs", "两个红色的鸡蛋"),
    (
        (ObjectSpec(name="house"), ObjectSpec(name="tree")),
        "left",
        "sea",
        "a house to the left of a tree at sea",
        "大海上，一座房子在一棵树的左边",
    ),
    ((ObjectSpec(name="star", position="top right"),), None, None, "a star at the top right", "一颗星星在右上角"),
    ((ObjectSpec(name="grapes", size="small"),), None, "room", "some small grapes in a room", "房间里的一串小小的葡萄"),
    ((ObjectSpec(name="gryphon"),), None, "a palace", "a gryphon, a palace", "a palace背景上的一个gryphon"),
]


@pytest.mark.parametrize(("specs", "relation", "background", "en", "zh"), SCENES)
def test_a_scene_is_described_in_both_languages(concept_vocabulary, specs, relation, background, en, zh):
    scene = apply_edit(None, NewScene(specs=specs, relation=relation, background=background))
    assert caption_scene(scene, concept_vocabulary, language="en") == en
    assert caption_scene(scene, concept_vocabulary, language="zh") == zh


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_caption_is_parsed_back_to_the_same_scene(concept_vocabulary, rule_parser, language):
    for edit in (
        NewScene(
            specs=(ObjectSpec(name="cat"), ObjectSpec(name="balloon", colour="blue")),
            relation="above",
            background="road",
        ),
        NewScene(specs=(ObjectSpec(name="cat", count=3),), background="pink background"),
        NewScene(specs=(ObjectSpec(name="cat", position="top left"),), background="night sky"),
    ):
        scene = apply_edit(None, edit)
        (read,) = rule_parser.parse(caption_scene(scene, concept_vocabulary, language=language), None).edits
        assert apply_edit(None, read) == scene


def test_one_object_is_described_with_its_position(concept_vocabulary):
    scene_object = SceneObject(name="cat", boxes=(get_position_box("left"),))
    assert (
        caption_object(scene_object, "snow", concept_vocabulary, language="en", position="left")
        == "a cat on the left in the snow"
    )
    assert (
        caption_object(scene_object, "snow", concept_vocabulary, language="zh", position="left")
        == "雪地里，一只小猫在左边"
    )


def test_several_instances_are_plural(concept_vocabulary):
    scene = apply_edit(apply_edit(None, NewScene(specs=(ObjectSpec(name="mouse"),))), SetObjectCount(target=0, count=2))
    scene = apply_edit(scene, AddObject(spec=ObjectSpec(name="sheep")))
    assert caption_scene(scene, concept_vocabulary, language="en") == "two mice and a small sheep"
