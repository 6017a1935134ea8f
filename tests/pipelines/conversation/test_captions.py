"""The sentence of a scene says what is in it, in words that the rules read back."""

import pytest

from dianjing.pipelines.conversation.captions import caption, caption_alone
from dianjing.pipelines.conversation.edits import Add, Draw, SetCount, Wanted, apply
from dianjing.pipelines.conversation.layout import place_box
from dianjing.pipelines.conversation.scenes import Thing

SCENES = [
    ((Wanted(name="cat"),), None, "grass", "a cat on the grass", "草地上的一只小猫"),
    ((Wanted(name="egg", colour="red", count=2),), None, None, "two red eggs", "两个红色的鸡蛋"),
    ((Wanted(name="house"), Wanted(name="tree")), "left", "sea",
     "a house to the left of a tree at sea", "大海上，一座房子在一棵树的左边"),
    ((Wanted(name="star", place="top right"),), None, None, "a star at the top right", "一颗星星在右上角"),
    ((Wanted(name="grapes", size="small"),), None, "room", "some small grapes in a room", "房间里的一串小小的葡萄"),
    ((Wanted(name="gryphon"),), None, "a palace", "a gryphon, a palace", "a palace背景上的一个gryphon"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "relation", "background", "en", "zh"), SCENES)
def test_a_scene_is_said_in_both_languages(names, wanted, relation, background, en, zh):
    scene = apply(None, Draw(wanted=wanted, relation=relation, background=background))
    assert caption(scene, names, language="en") == en
    assert caption(scene, names, language="zh") == zh


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_said_is_read_back_as_the_same_scene(names, rules, language):
    for edit in (
        Draw(wanted=(Wanted(name="cat"), Wanted(name="balloon", colour="blue")), relation="above", background="road"),
        Draw(wanted=(Wanted(name="cat", count=3),), background="pink background"),
        Draw(wanted=(Wanted(name="cat", place="top left"),), background="night sky"),
    ):
        scene = apply(None, edit)
        (read,) = rules.rewrite(caption(scene, names, language=language), None).edits
        assert apply(None, read) == scene


def test_one_object_alone_is_said_with_its_place(names):
    thing = Thing(name="cat", boxes=(place_box("left"),))
    assert caption_alone(thing, "snow", names, language="en", place="left") == "a cat on the left in the snow"
    assert caption_alone(thing, "snow", names, language="zh", place="left") == "雪地里，一只小猫在左边"


def test_several_of_one_are_plural(names):
    scene = apply(apply(None, Draw(wanted=(Wanted(name="mouse"),))), SetCount(of=0, count=2))
    scene = apply(scene, Add(wanted=Wanted(name="sheep")))
    assert caption(scene, names, language="en") == "two mice and a small sheep"
