"""Words that the normalizer of prompts looks up, made from a model's vocabularies when they are needed."""

import re
import unicodedata
from functools import cached_property

from dianjing.pipelines.conversation.parsing.base import HAN_PATTERN
from dianjing.pipelines.conversation.parsing.tokenizer import InstructionTokenizer
from dianjing.pipelines.conversation.parsing.word_senses import STOPWORDS_EN
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.normalization import word_lists
from dianjing.pipelines.prompting.normalization.phrases import PhraseConverter
from dianjing.pipelines.prompting.normalization.pinyin import PinyinReader
from dianjing.pipelines.prompting.normalization.spelling import LATIN_WORD, SpellingCorrector
from dianjing.pipelines.prompting.normalization.wording import NEGATION_WORDS
from dianjing.pipelines.prompting.vocabulary import Vocabulary

EMOJI_MODIFIERS = re.compile("[\U0001f3fb-\U0001f3ff]|\u200d[\u2640\u2642]")  # color of the skin, and sex
EMOJI_FILLER = frozenset({"face", "head", "with", "heavy", "black", "white"})  # of Unicode names: parts and styles


class WordTables:
    """The tokenizer, the corrector, the reader of pinyin and the word patterns of one model."""

    def __init__(self, vocabulary: Vocabulary, concept_vocabulary: ConceptVocabulary):
        self.vocabulary, self.concept_vocabulary = vocabulary, concept_vocabulary

    @cached_property
    def name_pattern(self) -> re.Pattern[str]:
        """Pattern of all names of objects and backgrounds in either language."""
        words = self.tokenizer.list_words()
        names = sorted((word for word, sense in words.items() if sense in ("object", "background")), key=len)
        letters = r"[^\W\d_]"
        english = "|".join(re.escape(name) for name in names if name.isascii())
        chinese = "|".join(re.escape(name) for name in names if not name.isascii())
        return re.compile(rf"(?<!{letters})(?:{english})(?!{letters})|{chinese}", re.IGNORECASE | re.ASCII)

    @cached_property
    def tokenizer(self) -> InstructionTokenizer:
        return InstructionTokenizer(self.concept_vocabulary)

    @cached_property
    def phrase_converter(self) -> PhraseConverter:
        return PhraseConverter(self.concept_vocabulary, self.tokenizer.list_words())

    @cached_property
    def ignored_words(self) -> frozenset[str]:
        return word_lists.FILLER_EN | set(STOPWORDS_EN.split()) | NEGATION_WORDS

    @cached_property
    def names_with_numerals(self) -> list[str]:
        return [
            name for name in self.vocabulary.en if any(name.startswith(f"{word} ") for word in word_lists.NUMERALS_EN)
        ]

    @cached_property
    def corrector(self) -> SpellingCorrector:
        objects = self.concept_vocabulary.objects
        plurals = {
            name: plural for entry in objects for name, plural in zip(entry.names_en, entry.plurals_en, strict=True)
        }
        senses = self.tokenizer.list_words()
        names = [*plurals, *filter(None, plurals.values())]
        names += [colour.name_en for colour in self.concept_vocabulary.colours]
        names += [word for word in senses if word.isascii() and senses[word] == "background"]
        names += [phrase for phrase in self.vocabulary.en if phrase not in names]
        return SpellingCorrector(
            phrases=dict.fromkeys(name for name in names if len(name) > 1),
            plurals=plurals,
            known=frozenset(
                [word[0] for phrase in self.vocabulary.en for word in LATIN_WORD.finditer(phrase.lower())]
                + [word[0] for phrase in senses for word in LATIN_WORD.finditer(phrase)]
            )
            | word_lists.FILLER_EN,
            names_zh=[
                *(name for entry in objects for name in entry.names_zh),
                *(b.name_zh for b in self.concept_vocabulary.backgrounds),
            ],
        )

    @cached_property
    def pinyin_reader(self) -> PinyinReader:
        concepts = self.concept_vocabulary
        numbers = ["一", "两", "二", "三", "四"]
        measures = list(dict.fromkeys(entry.measure_word_zh for entry in concepts.objects))
        grammar = ["的", "在", "里", "上", "有", "和", "下", "中", "画", "请", "小", "大"]
        objects = [name for entry in concepts.objects for name in entry.names_zh]
        backgrounds = [n for b in concepts.backgrounds for n in (*b.location_phrases_zh, b.name_zh)]
        colours = [name for c in concepts.colours for name in (f"{c.name_zh}的", c.name_zh, c.name_zh[:-1])]
        positions = [word for word, sense in self.tokenizer.list_words().items() if sense == "position"]
        words = [*numbers, *measures, *grammar, *objects, *backgrounds, *colours]
        words += [word for word in positions if HAN_PATTERN.search(word)]
        return PinyinReader(words, frozenset([*objects, *backgrounds]))

    @cached_property
    def chinese_pattern(self) -> re.Pattern[str]:
        groups = {
            "known": [word for word in self.vocabulary.zh if len(word) > 1],
            "compound": word_lists.COMPOUNDS_ZH,
            "filler": word_lists.FILLER_ZH,
            "verb": word_lists.VERBS_ZH,
        }
        alternatives = (
            f"(?P<{name}>{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"
            for name, words in groups.items()
        )
        return re.compile("|".join(alternatives))

    def remove_chinese_filler(self, text: str) -> tuple[str, list[str]]:
        """Remove filler and verbs between the known words of a text, and compounds, which are returned, too."""
        compounds: list[str] = []

        def replace_word(match: re.Match[str]) -> str:
            if match["compound"]:
                compounds.append(match[0])
            return match[0] if match["known"] else "" if match["filler"] else "，"

        return self.chinese_pattern.sub(replace_word, text), compounds

    def replace_emoji(self, text: str) -> str:
        """Put the name of an object in place of each emoji of it; others stay as they are."""
        language = "zh" if HAN_PATTERN.search(text) else "en"
        text = EMOJI_MODIFIERS.sub("", text)
        return "".join(self._name_emoji(char, language) or char for char in text)

    def _name_emoji(self, char: str, language: str) -> str | None:
        """Name the object of an emoji by its Unicode name, such as PANDA FACE."""
        if unicodedata.category(char) != "So":
            return None
        words = [word for word in unicodedata.name(char, "").lower().split() if word not in EMOJI_FILLER]
        for phrase in (" ".join(words), *words[::-1]):
            if (known := self.concept_vocabulary.find_object(phrase)) is not None:
                return known.names_zh[0] if language == "zh" else f" {known.names_en[0]} "
        return None

    def convert_pinyin(self, text: str, vocabulary: Vocabulary) -> str:
        """Convert the parts of a text that are pinyin, between commas, to Chinese."""
        segments = []
        for segment in text.split(","):
            words = [match[0] for match in LATIN_WORD.finditer(segment)]
            is_latin = bool(words) and HAN_PATTERN.search(segment) is None
            is_english = not vocabulary.find_unknown_words(segment) or any(
                word in self.corrector.phrases and len(word) > 3 for word in words
            )
            if is_latin and not is_english and (chinese := self.pinyin_reader.read(words)) is not None:
                segment = chinese
            segments.append(segment)
        return "，".join(segments) if HAN_PATTERN.search("".join(segments)) else ",".join(segments)
