"""The single arrows: words, text states, noise, guidance, sizes."""

import logging

import pytest
import torch

from dianjing.pipelines.denoiser import apply_cfg
from dianjing.pipelines.prompt_embeds import TextEncoderOutput, encode_missing_prompts
from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.pipelines.sampling import sample_noise
from dianjing.pipelines.text_to_image import TRAINED_SIZES, get_nearest_trained_size
from dianjing.train.stickers.captions import list_caption_words
from dianjing.train.stickers.world import StickerWorld

LEXICON = Vocabulary(
    zh=frozenset({"小猫", "猫", "草地", "上", "的", "一只", "在"}),
    en=frozenset({"cat", "cats", "on", "the", "grass", "a", "hot dog", "T-shirt"}),
)


@pytest.fixture
def warnings(monkeypatch):
    """What diffusers' loggers say; they do not reach pytest by themselves."""
    said = []

    class Listener(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    logger, listener = logging.getLogger("dianjing"), Listener(logging.WARNING)
    logger.addHandler(listener)
    yield said
    logger.removeHandler(listener)


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
def test_words_that_the_lexicon_lacks_are_found(prompt, unknown):
    assert LEXICON.find_unknown_words(prompt) == unknown


def test_no_caption_of_the_sticker_world_is_hinted_at():
    lexicon = Vocabulary(**{language: frozenset(words) for language, words in list_caption_words().items()})
    world = StickerWorld()
    samples = [world.get_image_sample(0, position) for position in range(200)]
    captions = [text for sample in samples for text in (sample.text_zh, sample.text_en)]
    assert {text: words for text in captions if (words := lexicon.find_unknown_words(text))} == {}
    assert lexicon.find_unknown_words("a cat riding a 独角鲸") == ["riding", "独角鲸"]


def test_a_lexicon_without_chinese_knows_no_chinese_word():
    assert Vocabulary(zh=frozenset(), en=frozenset({"cat"})).find_unknown_words("小猫 cat") == ["小猫"]


@pytest.mark.parametrize("text", ["[]", "{", '{"zh": []}', '{"zh": [1], "en": []}'])
def test_a_file_that_is_no_lexicon_is_refused(tmp_path, text):
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"vocabulary\.json"):
        Vocabulary.from_file(path)


def test_an_unknown_word_is_hinted_at_once(pipe, generate_latents, warnings):
    pipe.vocabulary = LEXICON
    for _ in range(2):
        generate_latents(pipe, ["a cat", "a dinosaur"])
    hints = [line for line in warnings if "dinosaur" in line]
    assert len(hints) == 1
    assert "hunyuan-dit" in hints[0]


def test_a_pipeline_without_a_lexicon_gives_no_hint(pipe, generate_latents, warnings):
    generate_latents(pipe, "a dinosaur")
    assert pipe.find_unknown_words("a dinosaur") == []
    assert not warnings


def test_a_prompt_that_is_cut_is_announced(pipe, warnings):
    pipe.encode_prompt("cat " * 75)
    assert not warnings
    pipe.encode_prompt("cat " * 76)
    assert "78 tokens was cut to the 77" in warnings[0]


def test_what_is_encoded_already_is_not_encoded_again():
    states = TextEncoderOutput(embeds=torch.ones(2, 3, 4), attention_mask=torch.ones(2, 3))
    asked = []

    def encode_texts(texts):
        asked.extend(texts)
        return TextEncoderOutput(embeds=torch.zeros(len(texts), 3, 4), attention_mask=torch.zeros(len(texts), 3))

    positive, negative = encode_missing_prompts(states, ["a", "b"], encode_texts)
    assert positive is states
    assert asked == ["a", "b"]
    assert len(negative) == 2
    assert encode_missing_prompts(states, None, encode_texts) == (states, None)
    assert asked == ["a", "b"]


def test_noise_of_a_generator_list_is_drawn_picture_by_picture():
    def generators(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    device = torch.device("cpu")
    noise = sample_noise((2, 4, 2, 2), generators(3, 4), device=device)
    assert torch.equal(noise[1:], sample_noise((1, 4, 2, 2), generators(4), device=device))
    whole = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_noise((3, 4, 8, 8), torch.Generator().manual_seed(0), device=device), whole)


def test_guidance_moves_from_the_negative_through_the_positive_prediction():
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=0), negative)
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=1), positive)
    torch.testing.assert_close(apply_cfg(negative, positive, guidance_scale=3), negative + 3 * (positive - negative))


def test_full_rescale_restores_the_deviation_of_each_picture():
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = apply_cfg(negative, positive, guidance_scale=7, guidance_rescale=1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2, 3)), positive.std(dim=(1, 2, 3)))


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        ((512, 512), (1024, 1024)),
        ((1300, 1300), (1280, 1280)),
        ((1000, 1500), (960, 1280)),
        ((768, 1024), (768, 1024)),
        ((1100, 700), (1280, 768)),
        ((4000, 100), (1280, 768)),
    ],
)
def test_the_nearest_trained_size_has_the_nearest_shape(given, trained):
    assert get_nearest_trained_size(*given) == trained


def test_every_trained_size_is_its_own_nearest():
    assert [get_nearest_trained_size(*size) for size in TRAINED_SIZES] == list(TRAINED_SIZES)
