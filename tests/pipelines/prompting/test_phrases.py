"""Phrases of prompts: what is not to be red, large or on the left, and where something stands beside another thing."""

import pytest

from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes
from dianjing.weights.registry import MODELS

COLOURABLE = [each for each in load_sprite_classes() if each.is_colourable]


@pytest.fixture(scope="module")
def normalizer():
    return PromptNormalizer.from_folder(next(model.bundled_folder for model in MODELS if model.bundled_folder))


def read(normalizer, prompt):
    """Objects with their colors, the relation, and the words that are left out."""
    scene = normalizer.read_scene(prompt)
    objects = [(spec.name, spec.colour) for spec in scene.objects]
    return objects, scene.relation, [each.word for each in normalizer.normalize(prompt).left_out]


@pytest.mark.parametrize(
    "prompt",
    [
        "{zh}不是{c}的",
        "不是{c}的{zh}",
        "一{m}不是{c}的{zh}",
        "非{c}的{zh}",
        "并非{c}的{zh}",
        "除了{c}以外的{zh}",
        "{zh}，不要{c}",
        "a {en} that is not {ce}",
        "a {en} that isn't {ce}",
        "a non-{ce} {en}",
        "a not {ce} {en}",
        "a {en}, but not {ce}",
        "a {en} without {ce}",
    ],
)
def test_an_object_gets_another_color_than_the_one_that_it_must_not_have(normalizer, prompt):
    for index, colour in enumerate(COLOURS):
        known = COLOURABLE[(7 * index) % len(COLOURABLE)]
        words = {"zh": known.names_zh[0], "m": known.measure_word_zh, "c": colour.name_zh.removesuffix("的")}
        text = prompt.format(**words, en=known.names_en[0], ce=colour.name_en)
        objects, _, left_out = read(normalizer, text)
        assert [name for name, _ in objects] == [known.names_en[0]], text
        assert objects[0][1] not in (None, colour.name_en), text
        assert left_out == [], text


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("不是红色或蓝色的汽车", [("car", "yellow")]),
        ("a car that is not red or blue", [("car", "yellow")]),
        ("不是红色而是绿色的汽车", [("car", "green")]),
        ("绿色的苹果，不是红色的", [("apple", "green")]),
        ("a green apple that is not red!", [("apple", "green")]),
        ("a car that is not red and a green apple", [("car", "blue"), ("apple", "green")]),
        ("不是红灯笼的汽车和小猫", [("car", None), ("cat", None)]),  # the name of an object, not a color
        ("不是猫而是狗", [("dog", None)]),
        ("a dog, not a cat", [("dog", None)]),
        ("草地上的小猫，不是白天", [("cat", None)]),
        ("不大的猫", [("cat", None)]),
        ("a cat that is not big!", [("cat", None)]),
    ],
)
def test_negations_are_read_as_they_are_meant(normalizer, prompt, objects):
    assert read(normalizer, prompt)[0] == objects


@pytest.mark.parametrize("prompt", ["不在左边的猫", "a cat not on the left!"])
def test_an_excluded_position_leaves_the_scene(normalizer, prompt):
    (cat,) = normalizer.read_scene(prompt).objects
    assert (cat.name, cat.position) == ("cat", None)


def test_an_excluded_color_of_an_object_with_colors_of_its_own_is_named(normalizer):
    assert read(normalizer, "不是红色的草莓") == ([("strawberry", None)], None, ["红色"])


@pytest.mark.parametrize("prompt", ["不要红色的汽车", "no red car", "没有红色的汽车"])
def test_an_object_that_must_not_be_there_gets_no_other_color(normalizer, prompt):
    with pytest.raises(DianjingError) as error:
        normalizer.normalize(prompt)
    assert error.value.message_id == "prompt_only_negated"


@pytest.mark.parametrize(
    ("template", "relation"),
    [
        ("{a}左边的{b}", "left"),
        ("{a}的左边有一{m}{b}", "left"),
        ("{b}在{a}右侧", "right"),
        ("{a}旁边的{b}", "right"),
        ("{a}上的{b}", "above"),
        ("{a}上面的{b}", "above"),
        ("{a}下有一{m}{b}", "below"),
        ("{a}下的{b}", "below"),
    ],
)
@pytest.mark.parametrize(("a", "b", "m"), [("树", "车", "辆"), ("房屋", "小鸟", "只"), ("箱子", "猫", "只")])
def test_relations_to_another_object_are_read(normalizer, template, relation, a, b, m):
    names = {"树": "tree", "车": "car", "房屋": "house", "小鸟": "bird", "箱子": "box", "猫": "cat"}
    scene = normalizer.read_scene(template.format(a=a, b=b, m=m))
    assert [spec.name for spec in scene.objects] == [names[b], names[a]]
    assert scene.relation == relation


def test_a_relation_to_something_unknown_is_no_position_in_the_image(normalizer):
    scene = normalizer.read_scene("桌子上面的苹果")
    assert [(spec.name, spec.position) for spec in scene.objects] == [("apple", None)]


@pytest.mark.parametrize("word", ["车站", "风车", "马车"])
def test_a_short_name_is_not_found_in_a_longer_word(normalizer, word):
    assert read(normalizer, f"一只小猫和{word}") == ([("cat", None)], None, [word])


def test_an_unknown_emoji_is_named_and_the_rest_is_read(normalizer):
    assert read(normalizer, "a cat 😀") == ([("cat", None)], None, ["😀"])
    assert read(normalizer, "🤷🏽\u200d♀️一只小猫！") == ([("cat", None)], None, ["🤷"])
    with pytest.raises(DianjingError) as error:
        normalizer.normalize("😀😀")
    assert error.value.message_id == "prompt_words_unknown"
    assert error.value.arguments["words"] == ["😀"]
