"""What the embedded rules make of what is said, in both languages."""

import pytest

from dianjing.pipelines.conversation.edits import (
    Add,
    Draw,
    Move,
    Recolour,
    Redraw,
    Remove,
    Replace,
    Resize,
    SetBackground,
    SetCount,
    Undo,
    Wanted,
    apply,
)
from dianjing.pipelines.conversation.refusals import NotPossibleError

OPENINGS = [
    ("a cat on the grass", [("cat", 1, None)], "grass", None),
    ("draw two red balloons at night", [("balloon", 2, "red")], "night sky", None),
    ("a small blue car to the left of a house", [("car", 1, "blue"), ("house", 1, None)], None, "left"),
    ("a t-shirt, a jack-o'-lantern and some grapes",
     [("t-shirt", 1, None), ("jack-o'-lantern", 1, None), ("grapes", 1, None)], None, None),
    ("海上的一艘帆船", [("sailboat", 1, None)], "sea", None),
    ("三个红色的气球", [("balloon", 3, "red")], None, None),
    ("房子的左边有一辆蓝色的汽车", [("car", 1, "blue"), ("house", 1, None)], None, "left"),
    ("一件T恤和一只小狗在雪地里", [("t-shirt", 1, None), ("dog", 1, None)], "snow", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "things", "background", "relation"), OPENINGS)
def test_an_opening_is_a_scene(rules, text, things, background, relation):
    (edit,) = rules.rewrite(text, None).edits
    assert isinstance(edit, Draw)
    assert [(w.name, w.count, w.colour) for w in edit.wanted] == things
    assert (edit.background, edit.relation) == (background, relation)


# of a cat (0, of which was spoken last) to the left of two red balloons (1), on the grass
FOX, DOG = Wanted(name="fox"), Wanted(name="dog")
CHANGES = [
    ("change the background to the beach", [SetBackground(background="beach")]),
    ("now it's raining", [SetBackground(background="rain")]),
    ("add a dog", [Add(wanted=DOG)]),
    ("put a dog at the top right", [Add(wanted=Wanted(name="dog", place="top right"))]),
    ("draw a dog to the left of the cat", [Add(wanted=DOG, relation="left", anchor=0)]),
    ("another one", [Add(wanted=Wanted(name="cat"))]),
    ("one more balloon", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("remove the cat", [Remove(of=0)]),
    ("take the balloons away", [Remove(of=1)]),
    ("get rid of it", [Remove(of=0)]),
    ("delete one of the balloons", [SetCount(of=1, count=1)]),
    ("replace the cat with a fox", [Replace(of=0, wanted=FOX)]),
    ("turn it into a fox", [Replace(of=0, wanted=FOX)]),
    ("a fox instead of the cat", [Replace(of=0, wanted=FOX)]),
    ("don't want the cat, add a fox", [Replace(of=0, wanted=FOX)]),
    ("move the cat to the top", [Move(of=0, place="top")]),
    ("put it to the right of the balloons", [Move(of=0, relation="right", anchor=1)]),
    ("make it bigger", [Resize(of=0, to="bigger")]),
    ("scale the cat up", [Resize(of=0, to="bigger")]),
    ("size the balloons down a little", [Resize(of=1, to="smaller")]),
    ("the cat needn't be that big", [Resize(of=0, to="smaller")]),
    ("the balloons are too big", [Resize(of=1, to="smaller")]),
    ("make those balloons smaller", [Resize(of=1, to="smaller")]),
    ("make that two cats", [SetCount(of=0, count=2)]),
    ("paint the balloons blue", [Recolour(of=1, colour="blue")]),
    ("the balloons should be green", [Recolour(of=1, colour="green")]),
    ("that is not a cat but a fox", [Replace(of=0, wanted=FOX)]),
    ("I wanted a dog, not the balloons", [Replace(of=1, wanted=DOG)]),
    ("the cat should be a fox", [Replace(of=0, wanted=FOX)]),
    ("where the cat is, put a fox", [Replace(of=0, wanted=FOX)]),
    ("add balloons up to three", [SetCount(of=1, count=3)]),
    ("i liked it better before", [Undo()]),
    ("draw three balloons", [SetCount(of=1, count=3)]),
    ("draw one balloon", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("balloons: add one", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("undo", [Undo()]),
    ("draw it again", [Redraw()]),
    ("start over: a dog", [Draw(wanted=(DOG,))]),
    ("remove the balloons and add a dog", [Replace(of=1, wanted=Wanted(name="dog", count=1))]),
    ("make the cat bigger, then change the background to the sea",
     [Resize(of=0, to="bigger"), SetBackground(background="sea")]),
    ("背景换成沙滩", [SetBackground(background="beach")]),
    ("下雨了", [SetBackground(background="rain")]),
    ("加一只小狗", [Add(wanted=DOG)]),
    ("右上角画一只小狗", [Add(wanted=Wanted(name="dog", place="top right"))]),
    ("猫的左边再加一只小狗", [Add(wanted=DOG, relation="left", anchor=0)]),
    ("那不是猫，而是一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("与其画猫，不如画只狐狸", [Replace(of=0, wanted=FOX)]),
    ("与其要它，不如要一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("气球不如换成一只小狗", [Replace(of=1, wanted=DOG)]),
    ("猫不用这么大", [Resize(of=0, to="smaller")]),
    ("猫显得有点小", [Resize(of=0, to="bigger")]),
    ("把猫画成一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("猫的位置放一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("这只猫应该是一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("气球加到三个", [SetCount(of=1, count=3)]),
    ("把它变回之前的", [Undo()]),
    ("画三个气球", [SetCount(of=1, count=3)]),
    ("再画一个气球", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("气球再加一个", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("再来一个", [Add(wanted=Wanted(name="cat"))]),
    ("再来一个气球", [Add(wanted=Wanted(name="balloon", colour="red"))]),
    ("去掉猫", [Remove(of=0)]),
    ("把它删掉", [Remove(of=0)]),
    ("不要气球了", [Remove(of=1)]),
    ("把猫换成狐狸", [Replace(of=0, wanted=FOX)]),
    ("它变成狐狸", [Replace(of=0, wanted=FOX)]),
    ("用狐狸代替猫", [Replace(of=0, wanted=FOX)]),
    ("不要猫，要一只狐狸", [Replace(of=0, wanted=FOX)]),
    ("把猫移到上面", [Move(of=0, place="top")]),
    ("把它放到气球的右边", [Move(of=0, relation="right", anchor=1)]),
    ("让它大一点", [Resize(of=0, to="bigger")]),
    ("气球太大了", [Resize(of=1, to="smaller")]),
    ("变成两只猫", [SetCount(of=0, count=2)]),
    ("把气球涂成蓝色", [Recolour(of=1, colour="blue")]),
    ("撤销", [Undo()]),
    ("重新画", [Redraw()]),
    ("把猫变大，然后背景换成大海", [Resize(of=0, to="bigger"), SetBackground(background="sea")]),
]  # fmt: skip


@pytest.fixture(scope="module")
def scene():
    wanted = (Wanted(name="cat"), Wanted(name="balloon", count=2, colour="red"))
    return apply(None, Draw(wanted=wanted, background="grass", relation="left"))


@pytest.mark.parametrize(("text", "edits"), CHANGES)
def test_a_change_is_understood(rules, scene, text, edits):
    understood = rules.rewrite(text, scene)
    assert list(understood.edits) == edits
    assert understood.hints == ()


def test_it_is_what_was_spoken_of_last(rules, scene):
    dogs = apply(scene, rules.rewrite("add a dog", scene).edits[0])
    assert rules.rewrite("make it smaller", dogs).edits == (Resize(of=2, to="smaller"),)
    assert rules.rewrite("把它变小", dogs).edits == (Resize(of=2, to="smaller"),)


def test_a_word_that_is_not_known_is_named(rules, scene):
    assert rules.rewrite("a cat and a gryphon", None).hints == ("this model does not know: gryphon",)
    assert "麒麟" in rules.rewrite("一只小猫和一头麒麟", None).hints[0]
    with pytest.raises(NotPossibleError, match="does not know: zyzzyva; say what to draw"):
        rules.rewrite("zyzzyva", scene)


def test_what_asks_for_nothing_brings_an_example(rules, scene):
    with pytest.raises(NotPossibleError, match="add a dog on the left"):
        rules.rewrite("thank you", scene)
    with pytest.raises(NotPossibleError, match="左边加一只小狗"):
        rules.rewrite("谢谢你", scene)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("remove the dog", "there is no dog"), ("make the dog bigger", "there is no dog"),
        ("去掉小狗", "图片里没有小?狗"), ("把小狗移到左边", "图片里没有小?狗"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_picture_is_not_added_by_the_way(rules, scene, text, told):
    with pytest.raises(NotPossibleError, match=told):
        rules.rewrite(text, scene)


def test_every_name_in_both_languages_is_read_as_what_it_names(rules, names):
    """Of two objects that share a name, the one whose usual name it is."""
    for entry in names.objects:
        for name in (*entry.names_en, *entry.names_zh, *filter(None, entry.plurals_en)):
            (edit,) = rules.rewrite(name, None).edits
            expected = names.find_object(name).names_en[0]
            assert [wanted.name for wanted in edit.wanted] == [expected], name


def test_every_background_in_both_languages_is_read(rules, names, scene):
    for entry in names.backgrounds:
        for where in (*entry.where_en, *entry.where_zh):
            if entry.name_en != "grass":
                assert rules.rewrite(where, scene).edits == (SetBackground(background=entry.name_en),), where
