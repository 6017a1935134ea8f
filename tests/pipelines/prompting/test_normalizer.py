"""Normalized prompts against the truth: what a caption was written for, and what a person meant."""

import contextlib
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.parsing.tokenizer import InstructionTokenizer
from dianjing.pipelines.conversation.scene import POSITIONS
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer
from dianjing.pipelines.prompting.normalization.scene_reading import read_scene
from dianjing.train.evaluation.sloppy_prompts import find_class, tomllib
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.captions import make_caption_en, make_caption_zh
from dianjing.train.stickers.scenes import SCENE_TYPES
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes
from dianjing.weights.registry import MODELS

BUNDLE = next(model.bundled_folder for model in MODELS if model.bundled_folder)
SLOPPY = tomllib.loads((Path(__file__).parent / "sloppy_prompts.toml").read_text(encoding="utf-8"))
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# prompts of the file that no reading brings to a picture: two things that the model was never shown, and a character
# that is mistaken for another by its shape
NOT_READ = {"热汽球", "一个大西爪", "雞和鴨"}


@pytest.fixture(scope="module")
def normalizer():
    return PromptNormalizer.from_folder(BUNDLE)


@pytest.fixture(scope="module")
def video_normalizer():
    return PromptNormalizer.from_folder(BUNDLE, keeps_motions=True)


def make_captions(count, *, seed=0):
    """Yield (scene, caption) over the whole grammar of images in both languages."""
    stage = CurriculumStage(scene_weights=dict.fromkeys(SCENE_TYPES, 1.0), grid_px=(16,))
    world = StickerWorld(size_px=32, stages=[stage], split="train")
    rng = random.Random(seed)
    for position in range(count):
        scene = world.get_image_sample(seed, position).scene
        yield scene, make_caption_en(scene, rng)
        yield scene, make_caption_zh(scene, rng)


@cache
def make_tokenizer(concept_vocabulary):
    return InstructionTokenizer(concept_vocabulary)


def read(normalizer, caption):
    """Read a caption back: objects in order with the relation, which may be said from either end; background."""
    tokens, unknown = make_tokenizer(normalizer.concept_vocabulary).tokenize(caption)
    assert not unknown, caption
    scene = read_scene(tokens, normalizer.concept_vocabulary)
    objects = tuple((each.name, each.count, each.colour, each.size) for each in scene.objects)
    position = scene.objects[0].position if len(objects) == 1 else None
    return *orient(objects, scene.relation), None if position == "center" else position, scene.background


def orient(objects, relation):
    return (objects[::-1], OPPOSITE[relation]) if relation in ("right", "below") else (objects, relation)


def get_truth(scene):
    classes = load_sprite_classes()
    objects = tuple(
        (
            classes[mention.class_id].names_en[0],
            mention.count,
            None if mention.colour is None else COLOURS[mention.colour].name_en,
            mention.size,
        )
        for mention in scene.mentions
    )
    cell = scene.mentions[0].cell
    position = None if cell is None or POSITIONS[cell] == "center" else POSITIONS[cell]
    return *orient(objects, scene.relation), position, BACKGROUNDS[scene.background].name_en


def check_grammar(normalizer, count, seed):
    for _, caption in make_captions(count, seed=seed):
        assert normalizer.normalize(caption).text == caption


def check_reading(normalizer, count, seed):
    for scene, caption in make_captions(count, seed=seed):
        normalized = normalizer.normalize(f"“{caption.upper()}”!!")
        *found, background = read(normalizer, normalized.text)
        *truth, true_background = get_truth(scene)
        assert found == truth, caption
        # captions may leave the white background unnamed
        assert background == true_background or (background is None and true_background == "white background"), caption
        assert normalized.left_out == ()


def test_captions_of_the_training_grammar_stay_as_they_are(normalizer):
    check_grammar(normalizer, 150, seed=3)


def test_quoted_captions_in_capitals_are_read_as_the_scenes_that_they_were_written_for(normalizer):
    check_reading(normalizer, 150, seed=4)


@pytest.mark.slow
def test_the_training_grammar_is_read(normalizer):
    check_grammar(normalizer, 20_000, seed=5)
    check_reading(normalizer, 20_000, seed=6)


def test_captions_of_clips_stay_as_they_are(normalizer, video_normalizer):
    stage = CurriculumStage(scene_weights=dict.fromkeys(SCENE_TYPES, 1.0), grid_px=(16,))
    world = StickerWorld(size_px=32, stages=[stage], split="train")
    for position in range(60):
        clip = world.get_captioned_clip(0, position, num_frames=2, fps=8.0)
        for text in (clip.text_en, clip.text_zh):
            assert normalizer.normalize(text).text == text
            assert video_normalizer.normalize(text).text == text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sloppy_prompts_are_read_as_they_were_meant(normalizer, language):
    wrong = set()
    for row in SLOPPY[language]:
        try:
            objects, _, position, background = read(normalizer, normalizer.normalize(row["prompt"]).text)
        except DianjingError:
            if not row.get("nothing"):
                wrong.add(row["prompt"])
            continue
        names = {name: (count, colour) for name, count, colour, _ in objects}
        is_right = not row.get("nothing") and not set(row.get("absent", ())) & names.keys()
        for item in row.get("objects", ()):
            class_id = find_class(item["name"])
            name = "" if class_id is None else load_sprite_classes()[class_id].names_en[0]
            count, colour = names.get(name, (None, None))
            is_right &= count is not None and item.get("count", count) == count
            is_right &= item.get("color") in (None, colour)
        is_right &= row.get("position", position) == position
        is_right &= row.get("background", background) in (background, (background or "").removesuffix(" background"))
        if not is_right:
            wrong.add(row["prompt"])
    assert wrong <= NOT_READ


@pytest.mark.parametrize(
    ("prompt", "text", "left_out"),
    [
        ("a photo of an astronaut riding a horse on mars", "a horse", ["astronaut", "riding", "mars"]),
        ("a cat without a hat in the snow", "a cat in the snow", []),
        ("a dog, no cats or birds, on the beach", "a dog on the beach", []),
        ("10 cats", "four cats", ["10"]),
        ("a grey cat!", "a cat", []),
        ("a blue bicycle!", "a bicycle", ["blue"]),
        ("a big red apple!!", "a big red apple", []),
        ("一只狗在猫的左边！！", "一只小狗在一只小猫的左边", []),
        ("我想要一桶爆米花！！", "一桶爆米花", []),
        ("宇航员骑着马在火星上", "一匹马", ["火星", "宇航员"]),
        ("一只麒麟和貓", "一只小猫", ["麒麟"]),
        ("yi liang zi xing che", "一辆自行车", []),  # liang is the number two elsewhere
        ("liang liang qi che", "两辆汽车", []),
        ("雨散！！", "一把雨伞", []),  # 散 has the sound of 伞 and another one
        ("没有背景的小狗", "一只小狗", []),
        ("a dog without any background on the beach", "a dog on the beach", []),
    ],
)
def test_known_words_become_a_caption_and_the_others_are_named(normalizer, prompt, text, left_out):
    normalized = normalizer.normalize(prompt)
    assert normalized.text == text
    assert [each.word for each in normalized.left_out] == left_out


def test_words_of_their_own_are_no_misspellings(normalizer):
    """A moose is no mouse, a crow no crown and Mars no car."""
    for prompt, names in (("a moose", []), ("a crow and a cat", ["cat"]), ("mars and a dog", ["dog"])):
        try:
            objects = read(normalizer, normalizer.normalize(prompt).text)[0]
        except DianjingError:
            objects = ()
        assert [name for name, *_ in objects] == names


def test_unknown_words_come_with_the_nearest_known_ones(normalizer):
    nearest = normalizer.find_nearest_words("a boatyard and a stawbery with a cat")
    assert "strawberry" in nearest["stawbery"]


@pytest.mark.parametrize(
    ("prompt", "message_id", "word"),
    [
        ("asdfghjkl", "prompt_words_unknown", "asdfghjkl"),
        ("a boat", "prompt_words_unknown", "sailboat"),
        ("民主与自由", "prompt_words_unknown", "小猫"),
        ("masterpiece, best quality, 8k", "prompt_names_nothing", "cat"),
        ("no cat", "prompt_only_negated", "cat"),
        ("不要猫", "prompt_only_negated", "小猫"),
    ],
)
def test_nothing_known_is_an_error_with_suggestions(normalizer, prompt, message_id, word):
    with pytest.raises(DianjingError) as caught:
        normalizer.normalize(prompt)
    assert caught.value.message_id == message_id
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a momo on the beach", "a momo on the beach"),
        ("“a MOMO, 8k” on the beech!!", "a momo, on the beach"),
        ("a TOK house without a dog", "a TOK house"),
        ("草地上的毛毛!!", "草地上的毛毛"),
    ],
)
def test_trigger_words_of_adapters_pass(normalizer, prompt, text):
    assert normalizer.normalize(prompt, ("momo", "TOK", "毛毛")).text == text


def test_motions_stay_with_their_objects_in_videos(video_normalizer, normalizer):
    prompt = "“a cat jumping and a dog spinning” near a gryphon"
    assert video_normalizer.normalize(prompt).text == "a cat jumping and a dog spinning"
    assert normalizer.normalize(prompt).text == "a cat and a dog"
    assert video_normalizer.normalize("猫在跳，孙悟空！").text == "一只小猫在跳"


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("a cat dog,.!猫和狗的在2x（）“”no不要é🦋\u200b龍ｃ\t"), min_size=1, max_size=40)
)
def test_normalized_prompts_stay_as_they_are(normalizer, prompt):
    try:
        normalized = normalizer.normalize(prompt).text
    except DianjingError:
        return
    assert normalizer.normalize(normalized).text == normalized


def test_long_prompts_take_linear_time(normalizer):
    """A pattern that goes back over 4,000 characters would not end."""
    for prompt in ("catdog" * 600 + "!", "一只小猫" * 900 + "!", "a " * 1900 + "!", "mao" * 1200):
        with contextlib.suppress(DianjingError):
            normalizer.normalize(prompt)


def test_clean_prompts_import_no_spelling_libraries():
    code = (
        "import sys; from pathlib import Path\n"
        "from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer\n"
        f"PromptNormalizer.from_folder(Path({str(BUNDLE)!r})).normalize('a cat on the beach')\n"
        "assert not {'rapidfuzz', 'opencc', 'pypinyin', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("compound", ["龙猫", "海马", "壁虎", "狗熊", "马车"])
def test_a_compound_is_not_read_as_the_short_names_in_it(normalizer, compound):
    with pytest.raises(DianjingError, match=compound):
        normalizer.normalize(compound)
    normalized = normalizer.normalize(f"一只小猫和{compound}")
    assert [spec.name for spec in normalizer.read_scene(normalized.text).objects] == ["cat"]
    assert [each.word for each in normalized.left_out] == [compound]


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("🐼 on the beach", [("panda", 1)]),
        ("一只🐼和🍎", [("panda", 1), ("apple", 1)]),
        ("请画❤️", [("heart", 1)]),
        ("画2只🐶和1个🌞", [("dog", 2), ("sun", 1)]),
        ("a 🚀!!", [("rocket", 1)]),
    ],
)
def test_an_emoji_is_the_object_that_it_shows(normalizer, prompt, objects):
    assert [(spec.name, spec.count) for spec in normalizer.read_scene(prompt).objects] == objects
    assert not normalizer.normalize(prompt).left_out
