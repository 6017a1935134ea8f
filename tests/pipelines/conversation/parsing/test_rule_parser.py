"""The built-in rules turn texts of both languages into edits."""

import pytest

from dianjing.pipelines.conversation.edits import (
    AddObject,
    MoveObject,
    NewScene,
    ObjectSpec,
    RecolourObject,
    Regenerate,
    RemoveObject,
    ReplaceObject,
    ResizeObject,
    SetBackground,
    SetObjectCount,
    Undo,
    apply_edit,
)
from dianjing.pipelines.conversation.errors import EditError

FIRST_TEXTS = [
    ("a cat on the grass", [("cat", 1, None)], "grass", None),
    ("draw two red balloons at night", [("balloon", 2, "red")], "night sky", None),
    ("a small blue car to the left of a house", [("car", 1, "blue"), ("house", 1, None)], None, "left"),
    (
        "a t-shirt, a jack-o'-lantern and some grapes",
        [("t-shirt", 1, None), ("jack-o'-lantern", 1, None), ("grapes", 1, None)],
        None,
        None,
    ),
    ("海上的一艘帆船", [("sailboat", 1, None)], "sea", None),
    ("三个红色的气球", [("balloon", 3, "red")], None, None),
    ("房子的左边有一辆蓝色的汽车", [("car", 1, "blue"), ("house", 1, None)], None, "left"),
    ("一件T恤和一只小狗在雪地里", [("t-shirt", 1, None), ("dog", 1, None)], "snow", None),
]


@pytest.mark.parametrize(("text", "objects", "background", "relation"), FIRST_TEXTS)
def test_a_first_text_becomes_a_new_scene(rule_parser, text, objects, background, relation):
    (edit,) = rule_parser.parse(text, None).edits
    assert isinstance(edit, NewScene)
    assert [(w.name, w.count, w.colour) for w in edit.specs] == objects
    assert (edit.background, edit.relation) == (background, relation)


# edits of a cat (0, the antecedent) to the left of two red balloons (1), on the grass
FOX, DOG = ObjectSpec(name="fox"), ObjectSpec(name="dog")
CHANGES = [
    ("change the background to the beach", [SetBackground(background="beach")]),
    ("now it's raining", [SetBackground(background="rain")]),
    ("add a dog", [AddObject(spec=DOG)]),
    ("put a dog at the top right", [AddObject(spec=ObjectSpec(name="dog", position="top right"))]),
    ("draw a dog to the left of the cat", [AddObject(spec=DOG, relation="left", anchor=0)]),
    ("another one", [AddObject(spec=ObjectSpec(name="cat"))]),
    ("one more balloon", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("remove the cat", [RemoveObject(target=0)]),
    ("take the balloons away", [RemoveObject(target=1)]),
    ("get rid of it", [RemoveObject(target=0)]),
    ("delete one of the balloons", [SetObjectCount(target=1, count=1)]),
    ("replace the cat with a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("turn it into a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("a fox instead of the cat", [ReplaceObject(target=0, spec=FOX)]),
    ("don't want the cat, add a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("move the cat to the top", [MoveObject(target=0, position="top")]),
    ("put it to the right of the balloons", [MoveObject(target=0, relation="right", anchor=1)]),
    ("make it bigger", [ResizeObject(target=0, direction="bigger")]),
    ("scale the cat up", [ResizeObject(target=0, direction="bigger")]),
    ("size the balloons down a little", [ResizeObject(target=1, direction="smaller")]),
    ("the cat needn't be that big", [ResizeObject(target=0, direction="smaller")]),
    ("the balloons are too big", [ResizeObject(target=1, direction="smaller")]),
    ("make those balloons smaller", [ResizeObject(target=1, direction="smaller")]),
    ("make that two cats", [SetObjectCount(target=0, count=2)]),
    ("paint the balloons blue", [RecolourObject(target=1, colour="blue")]),
    ("the balloons should be green", [RecolourObject(target=1, colour="green")]),
    ("that is not a cat but a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("I wanted a dog, not the balloons", [ReplaceObject(target=1, spec=DOG)]),
    ("the cat should be a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("where the cat is, put a fox", [ReplaceObject(target=0, spec=FOX)]),
    ("add balloons up to three", [SetObjectCount(target=1, count=3)]),
    ("i liked it better before", [Undo()]),
    ("draw three balloons", [SetObjectCount(target=1, count=3)]),
    ("draw one balloon", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("balloons: add one", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("undo", [Undo()]),
    ("draw it again", [Regenerate()]),
    ("start over: a dog", [NewScene(specs=(DOG,))]),
    ("remove the balloons and add a dog", [ReplaceObject(target=1, spec=ObjectSpec(name="dog", count=1))]),
    (
        "make the cat bigger, then change the background to the sea",
        [ResizeObject(target=0, direction="bigger"), SetBackground(background="sea")],
    ),
    ("背景换成沙滩", [SetBackground(background="beach")]),
    ("下雨了", [SetBackground(background="rain")]),
    ("加一只小狗", [AddObject(spec=DOG)]),
    ("右上角画一只小狗", [AddObject(spec=ObjectSpec(name="dog", position="top right"))]),
    ("猫的左边再加一只小狗", [AddObject(spec=DOG, relation="left", anchor=0)]),
    ("那不是猫，而是一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("与其画猫，不如画只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("与其要它，不如要一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("气球不如换成一只小狗", [ReplaceObject(target=1, spec=DOG)]),
    ("猫不用这么大", [ResizeObject(target=0, direction="smaller")]),
    ("猫显得有点小", [ResizeObject(target=0, direction="bigger")]),
    ("把猫画成一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("猫的位置放一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("这只猫应该是一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("气球加到三个", [SetObjectCount(target=1, count=3)]),
    ("把它变回之前的", [Undo()]),
    ("画三个气球", [SetObjectCount(target=1, count=3)]),
    ("再画一个气球", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("气球再加一个", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("再来一个", [AddObject(spec=ObjectSpec(name="cat"))]),
    ("再来一个气球", [AddObject(spec=ObjectSpec(name="balloon", colour="red"))]),
    ("去掉猫", [RemoveObject(target=0)]),
    ("把它删掉", [RemoveObject(target=0)]),
    ("不要气球了", [RemoveObject(target=1)]),
    ("把猫换成狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("它变成狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("用狐狸代替猫", [ReplaceObject(target=0, spec=FOX)]),
    ("不要猫，要一只狐狸", [ReplaceObject(target=0, spec=FOX)]),
    ("把猫移到上面", [MoveObject(target=0, position="top")]),
    ("把它放到气球的右边", [MoveObject(target=0, relation="right", anchor=1)]),
    ("让它大一点", [ResizeObject(target=0, direction="bigger")]),
    ("气球太大了", [ResizeObject(target=1, direction="smaller")]),
    ("变成两只猫", [SetObjectCount(target=0, count=2)]),
    ("把气球涂成蓝色", [RecolourObject(target=1, colour="blue")]),
    ("撤销", [Undo()]),
    ("重新画", [Regenerate()]),
    ("把猫变大，然后背景换成大海", [ResizeObject(target=0, direction="bigger"), SetBackground(background="sea")]),
]


@pytest.fixture(scope="module")
def scene():
    specs = (ObjectSpec(name="cat"), ObjectSpec(name="balloon", count=2, colour="red"))
    return apply_edit(None, NewScene(specs=specs, background="grass", relation="left"))


@pytest.mark.parametrize(("text", "edits"), CHANGES)
def test_a_text_becomes_edits(rule_parser, scene, text, edits):
    understood = rule_parser.parse(text, scene)
    assert list(understood.edits) == edits
    assert understood.hints == ()


def test_it_refers_to_the_last_object(rule_parser, scene):
    dogs = apply_edit(scene, rule_parser.parse("add a dog", scene).edits[0])
    assert rule_parser.parse("make it smaller", dogs).edits == (ResizeObject(target=2, direction="smaller"),)
    assert rule_parser.parse("把它变小", dogs).edits == (ResizeObject(target=2, direction="smaller"),)


def test_an_unknown_word_is_named(rule_parser, scene):
    assert rule_parser.parse("a cat and a gryphon", None).hints == (
        "this model does not know these words and leaves them out: gryphon",
    )
    assert "麒麟" in rule_parser.parse("一只小猫和一头麒麟", None).hints[0]
    with pytest.raises(EditError, match="does not know: zyzzyva; describe"):
        rule_parser.parse("zyzzyva", scene)


def test_a_text_without_instruction_brings_an_example(rule_parser, scene):
    with pytest.raises(EditError, match="add a dog on the left"):
        rule_parser.parse("thank you", scene)
    with pytest.raises(EditError) as caught:
        rule_parser.parse("谢谢你", scene)
    assert "左边加一只小狗" in caught.value.render("zh")


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("remove the dog", "en", "there is no dog"),
        ("make the dog bigger", "en", "there is no dog"),
        ("去掉小狗", "zh", "图片里没有小狗"),
        ("把小狗移到左边", "zh", "图片里没有小狗"),
    ],
)
def test_an_edit_of_an_absent_object_is_refused(rule_parser, scene, text, language, message):
    with pytest.raises(EditError) as caught:
        rule_parser.parse(text, scene)
    assert message in caught.value.render(language)


def test_every_name_in_both_languages_means_its_object(rule_parser, concept_vocabulary):
    """A name that two objects share means the object with this canonical name."""
    for entry in concept_vocabulary.objects:
        for name in (*entry.names_en, *entry.names_zh, *filter(None, entry.plurals_en)):
            (edit,) = rule_parser.parse(name, None).edits
            expected = concept_vocabulary.find_object(name).names_en[0]
            assert [spec.name for spec in edit.specs] == [expected], name


def test_every_background_in_both_languages_is_understood(rule_parser, concept_vocabulary, scene):
    for entry in concept_vocabulary.backgrounds:
        for where in (*entry.location_phrases_en, *entry.location_phrases_zh):
            if entry.name_en != "grass":
                assert rule_parser.parse(where, scene).edits == (SetBackground(background=entry.name_en),), where
