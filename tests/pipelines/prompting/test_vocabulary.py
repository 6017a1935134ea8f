"""Vocabulary of a model: which words of a prompt it does not know, and who is told."""

import pytest

from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.train.stickers.captions import list_caption_words
from dianjing.train.stickers.world import StickerWorld

VOCABULARY = Vocabulary(
    zh=frozenset({"小猫", "猫", "草地", "上", "的", "一只", "在"}),
    en=frozenset({"cat", "cats", "on", "the", "grass", "a", "hot dog", "T-shirt"}),
)


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("草地上的一只小猫", []),
        ("草地上的一只恐龙在草地", ["恐龙"]),
        ("恐龙", ["恐龙"]),
        ("A CAT, on the grass!", []),
        ("two cats on 3 hot-dogs", ["two", "hot-dogs"]),
        ("a hot dog in a T-shirt", ["in"]),
        ("dinosaur dinosaur", ["dinosaur"]),
        ("小猫 and 恐龙 🦖", ["and", "恐龙", "🦖"]),
        ("кошка", ["кошка"]),
        ("", []),
    ],
)
def test_unknown_words_of_a_prompt_are_found(prompt, unknown):
    assert VOCABULARY.find_unknown_words(prompt) == unknown


def test_captions_of_the_sticker_world_have_no_unknown_words():
    vocabulary = Vocabulary(**{language: frozenset(words) for language, words in list_caption_words().items()})
    world = StickerWorld()
    samples = [world.get_image_sample(0, position) for position in range(200)]
    captions = [text for sample in samples for text in (sample.text_zh, sample.text_en)]
    assert {text: words for text in captions if (words := vocabulary.find_unknown_words(text))} == {}
    assert vocabulary.find_unknown_words("a cat riding a 独角鲸") == ["riding", "独角鲸"]


def test_a_vocabulary_without_chinese_knows_no_chinese_word():
    assert Vocabulary(zh=frozenset(), en=frozenset({"cat"})).find_unknown_words("小猫 cat") == ["小猫"]


@pytest.mark.parametrize("text", ["[]", "{", '{"zh": []}', '{"zh": [1], "en": []}'])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, text):
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"vocabulary\.json"):
        Vocabulary.from_file(path)


def test_an_unknown_word_is_warned_about_once(pipe, generate_latents, warnings):
    pipe.vocabulary = VOCABULARY
    for _ in range(2):
        generate_latents(pipe, ["a cat", "a dinosaur"])
    hints = [line for line in warnings if "dinosaur" in line]
    assert len(hints) == 1
    assert "hunyuan-dit" in hints[0]


def test_a_pipeline_without_a_vocabulary_does_not_warn(pipe, generate_latents, warnings):
    generate_latents(pipe, "a dinosaur")
    assert pipe.find_unknown_words("a dinosaur") == []
    assert not warnings
