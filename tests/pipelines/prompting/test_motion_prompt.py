"""Parsing of video prompts: the static image, its subjects and their motions."""

import pytest

from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser, Subject
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.train.recipes.bundle import measure_motion_vocabulary
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.captions import make_concept_vocabulary
from dianjing.train.stickers.motions import MOTIONS


@pytest.fixture(scope="module")
def vocabularies() -> tuple[MotionVocabulary, ConceptVocabulary]:
    return measure_motion_vocabulary(size_px=64), make_concept_vocabulary()


@pytest.fixture(scope="module")
def parser(vocabularies):
    return MotionPromptParser(*vocabularies)


@pytest.mark.parametrize(
    ("prompt", "static_prompt", "subjects"),
    [
        ("a cat jumping on the grass", "a cat on the grass", [("a cat", 1, "on the grass", "jumping")]),
        ("at sea, a big cat is jumping", "at sea, a big cat", [("a big cat", 1, "at sea", "jumping")]),
        (
            "a cat jumping and a dog spinning at sea",
            "a cat and a dog at sea",
            [("a cat", 1, "a dog at sea", "jumping"), ("a dog", 1, "a cat at sea", "spinning")],
        ),
        (
            "a cat jumping on the grass, a red balloon rising",
            "a cat and a red balloon on the grass",
            [
                ("a cat", 1, "a red balloon on the grass", "jumping"),
                ("a red balloon", 1, "a cat on the grass", "rising"),
            ],
        ),
        (
            "一只小猫在草地上跳，一只小狗在向右走",
            "草地上，一只小猫和一只小狗",
            [("一只小猫", 1, "草地上，一只小狗", "跳"), ("一只小狗", 1, "草地上，一只小猫", "向右走")],
        ),
        ("一只小狗在向右走", "一只小狗", [("一只小狗", 1, "", "向右走")]),
        ("一只小猫在草地上跳", "一只小猫在草地上", [("一只小猫", 1, "在草地上", "跳")]),
        (
            "树林里，一只长颈鹿在往上走，两个放大镜",
            "树林里，一只长颈鹿和两个放大镜",
            [("一只长颈鹿", 1, "树林里，两个放大镜", "往上走"), ("两个放大镜", 2, "树林里，一只长颈鹿", None)],
        ),
        (
            "一顶草帽，一副眼镜在缩小",
            "一顶草帽和一副眼镜",
            [("一顶草帽", 1, "一副眼镜", None), ("一副眼镜", 1, "一顶草帽", "缩小")],
        ),
        ("一桶爆米花在房间里跳跃", "一桶爆米花在房间里", [("一桶爆米花", 1, "在房间里", "跳跃")]),
        ("a cat", "a cat", [("a cat", 1, "", None)]),
    ],
)
def test_a_prompt_is_split_into_a_static_image_and_subjects(parser, prompt, static_prompt, subjects):
    parsed = parser.parse(prompt)
    assert parsed.static_prompt == static_prompt
    assert parsed.subjects == tuple(Subject(phrase=s, count=n, prompt_without=w, motion=m) for s, n, w, m in subjects)


@pytest.mark.parametrize(
    ("prompt", "placed"),
    [
        ("a cat jumping and a dog at sea", "a cat on the left and a dog on the right at sea"),
        ("树林里，一只长颈鹿在往上走，一只独角兽", "树林里，左边是一只长颈鹿，右边是一只独角兽"),
        ("一只猫在向左走，一只狗", "上面是一只猫，下面是一只狗"),
        ("草地上一只猫和一只狗在跳", "草地上左边是一只猫，右边是一只狗"),
        ("a cat jumping to the left of a dog", "a cat to the left of a dog"),
        ("a cat and a dog jumping at the top", "a cat and a dog at the top"),
        ("一只猫在跳，左边有一只狗", "一只猫和左边有一只狗"),
        ("a cat jumping and two dogs", "a cat and two dogs"),
        ("a cat jumping, a dog and a bird", "a cat and a dog and a bird"),
        ("a cat jumping", "a cat"),
    ],
)
def test_two_subjects_without_positions_get_positions(parser, prompt, placed):
    assert parser.parse(prompt).placed_prompt == placed


def test_without_concepts_the_noun_before_a_motion_moves(vocabularies):
    parsed = MotionPromptParser(vocabularies[0]).parse("a unicorn jumping, two dragons spinning")
    assert [(part.phrase, part.motion) for part in parsed.subjects] == [
        ("a unicorn", "jumping"),
        ("two dragons", "spinning"),
    ]
    assert parsed.static_prompt == "a unicorn, two dragons"


def test_without_motions_there_is_a_static_image_alone():
    parsed = MotionPromptParser(MotionVocabulary()).parse("一只小猫在跳")
    assert (parsed.static_prompt, parsed.subjects) == ("一只小猫在跳", ())


def test_captions_of_clips_are_parsed_correctly(parser):
    """Captions of held-out scenes in all phrasings of the sticker world."""
    world = StickerWorld(
        size_px=64, stages=[CurriculumStage(scene_weights={"single": 0.5, "pair": 0.4, "trio": 0.1})], split="held_out"
    )
    num_correct = total = 0
    for position in range(150):
        clip = world.get_captioned_clip(99, position, num_frames=2, fps=8)
        firsts = [sum(m.count for m in clip.scene.mentions[:index]) for index in range(len(clip.scene.mentions))]
        moves = [clip.object_motions[first] for first in firsts]
        truth = [None if move is None else MOTIONS[move.motion].name for move in moves]
        for prompt in (clip.text_zh, clip.text_en):
            motions = [part.motion for part in parser.parse(prompt).subjects]
            names = [None if motion is None else parser.motion_vocabulary.find(motion).name for motion in motions]
            num_correct, total = num_correct + (names == truth), total + 1
    assert num_correct / total > 0.97


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("please draw three koalas on the beach", [3]),
        ("帮我画三颗绿色的星星在紫色背景上", [3]),
        ("右边是4只小猫，左边是两只小狗", [4, 2]),
        ("一个三明治", [1]),  # a name with a numeral in it
        ("I want two red cars and a dog", [2, 1]),
    ],
)
def test_objects_are_counted_after_words_in_front_of_the_numeral(parser, prompt, counts):
    assert [subject.count for subject in parser.parse(prompt).subjects] == counts
