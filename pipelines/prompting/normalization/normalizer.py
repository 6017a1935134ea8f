"""The normalizer of prompts: one function in front of a model with a closed vocabulary, for all ways to call it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dianjing.errors import DianjingError, Language, Message
from dianjing.pipelines.conversation.parsing.base import HAN_PATTERN, detect_language
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.prompting.motions import MOTIONS_FILE, MotionVocabulary
from dianjing.pipelines.prompting.normalization.scene_reading import UNKNOWN_WORD, PromptScene, read_scene
from dianjing.pipelines.prompting.normalization.spelling import LATIN_WORD
from dianjing.pipelines.prompting.normalization.text_cleaning import clean_text, simplify
from dianjing.pipelines.prompting.normalization.word_tables import WordTables
from dianjing.pipelines.prompting.normalization.wording import (
    NEGATION_WORDS,
    contains_any,
    remove_unknown,
    replace_negations,
    replace_numerals,
    replace_words,
    restore_case,
)
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE, WORD_PATTERN, Vocabulary
from dianjing.weights import registry

CLEAN_GAP = re.compile(r"[ ,.，。、：]*[1-4]?|['’]-")  # between words; a digit stands before Chinese
REPEATED_PUNCTUATION = re.compile(r"[,.，。、：]\s*[,.，。、：]|\s{2}")
NO_MOTIONS = MotionVocabulary()
EXAMPLE_NAMES = ("cat", "dog", "rabbit", "car", "apple", "star")


@dataclass(frozen=True, kw_only=True)
class LeftOutWord:
    """A word of a prompt that the model does not know, and the known names that look most like it."""

    word: str
    nearest: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NormalizedPrompt:
    """A prompt in the words that the model knows, and the words of the original that were left out."""

    text: str
    left_out: tuple[LeftOutWord, ...] = ()


class PromptNormalizer:
    """Normalizer of prompts for one vocabulary.

    motion_vocabulary: motions that a prompt keeps; none for images. A prompt of known words alone is returned as it
    is. Any other becomes a caption like those that the model was trained on, of what is known in it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        concept_vocabulary: ConceptVocabulary,
        motion_vocabulary: MotionVocabulary = NO_MOTIONS,
    ):
        self.vocabulary, self.concept_vocabulary = vocabulary, concept_vocabulary
        self.motion_vocabulary = motion_vocabulary
        self._tables = WordTables(vocabulary, concept_vocabulary)

    @classmethod
    def from_folder(cls, folder: Path, *, keeps_motions: bool = False) -> "PromptNormalizer":
        """Read the vocabularies in a model's folder. Raises: DianjingError for files that are invalid."""
        motions = MotionVocabulary.from_file(folder / MOTIONS_FILE) if keeps_motions else NO_MOTIONS
        return cls(
            Vocabulary.from_file(folder / VOCABULARY_FILE), ConceptVocabulary.from_file(folder / CONCEPTS_FILE), motions
        )

    @classmethod
    def check_prompts(
        cls, prompts: Sequence[str], folder: Path | None, adapters: Sequence[str] = (), *, keeps_motions: bool = False
    ) -> None:
        """Check that the bundled model can draw something of each prompt, before weights load.

        folder: of any model; None for one that is not on this machine. adapters: paths of adapters, whose words pass.
        Raises: DianjingError.
        """
        if folder is None or not registry.is_bundled_folder(folder):
            return
        words: list[str] = []
        if adapters:
            from dianjing.weights.trigger_words import read_trigger_words  # imports torch

            words = [word for adapter in adapters for word in read_trigger_words(adapter)]
        normalizer = cls.from_folder(folder, keeps_motions=keeps_motions)
        for prompt in prompts:
            normalizer.normalize(prompt, words)

    def normalize(self, prompt: str, trigger_words: Sequence[str] = ()) -> NormalizedPrompt:
        """Normalize a prompt. trigger_words: words of adapters, which pass.

        Raises: DianjingError for a prompt without anything that the model can draw.
        """
        vocabulary = self.vocabulary.with_words(trigger_words)
        if self._is_clean(prompt, vocabulary) and self._names_something(prompt, trigger_words):
            return NormalizedPrompt(text=prompt)
        text, left_out = self._prepare(prompt, vocabulary)
        text = restore_case(text, trigger_words)
        if contains_any(text, trigger_words):
            text, unknown = remove_unknown(text, vocabulary)
            return NormalizedPrompt(text=text, left_out=self._suggest([*left_out, *unknown]))
        return self._rewrite(prompt, text, left_out)

    def read_scene(self, prompt: str) -> PromptScene:
        """Read the objects, the background and their relation from a prompt. Raises: DianjingError as `normalize`."""
        tokens, _ = self._tables.tokenizer.tokenize(self.normalize(prompt).text)
        return read_scene(tokens, self.concept_vocabulary)

    def find_nearest_words(self, prompt: str, trigger_words: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Map each word that a prompt is drawn without to the known names that look most like it."""
        try:
            left_out = self.normalize(prompt, trigger_words).left_out
        except DianjingError:  # nothing is drawn
            left_out = self._suggest(self.vocabulary.with_words(trigger_words).find_unknown_words(prompt))
        return {each.word: each.nearest for each in left_out}

    def _rewrite(self, prompt: str, text: str, left_out: list[str]) -> NormalizedPrompt:
        """Write the caption of what is known in a text."""
        motions, still = self._split_motions(text)
        _, unknown = self._tables.tokenizer.tokenize(still)
        left_out = [*left_out, *self._select_reported(unknown)]
        tokens, _ = self._tables.tokenizer.tokenize(replace_words(still, unknown, UNKNOWN_WORD))
        scene = read_scene(tokens, self.concept_vocabulary)
        left_out += [self._translate_colour(name, text) for name in scene.ignored_colours]
        if not scene.objects and scene.background is None:
            words = (match[0] for match in LATIN_WORD.finditer(text))
            left_out = left_out or [word for word in words if word not in self._tables.ignored_words]
            raise self._make_error(prompt, left_out, scene)
        language = detect_language(text)
        caption = (
            scene.caption(self.concept_vocabulary, language=language, motions=motions)
            if scene.objects
            else self._describe_background(scene, language)
        )
        return NormalizedPrompt(text=caption, left_out=self._suggest(left_out))

    def _describe_background(self, scene: PromptScene, language: Language) -> str:
        known = self.concept_vocabulary.find_background(scene.background or "")
        assert known is not None, "backgrounds are read from the vocabulary"
        return known.location_phrases_zh[0] if language == "zh" else known.location_phrases_en[0]

    def _prepare(self, prompt: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
        """Normalize characters, words and spelling; return the text and the words that left it."""
        text = self._tables.phrase_converter.convert(simplify(clean_text(self._tables.replace_emoji(prompt))))
        text, left_out = self._tables.remove_chinese_filler(replace_negations(text))
        text = self._tables.convert_pinyin(text, vocabulary)
        text = self._tables.corrector.correct_english(text)
        unknown = [word for word in vocabulary.find_unknown_words(text) if HAN_PATTERN.search(word)]
        text = self._tables.corrector.correct_chinese(text, [word for word in unknown if word not in NEGATION_WORDS])
        text, too_many = replace_numerals(text, self._tables.names_with_numerals)
        return text.strip(" ,，"), [*left_out, *too_many]

    def _split_motions(self, text: str) -> tuple[dict[str, str], str]:
        """Return the motions of a text by the names of their objects, and the text without them."""
        if not self.motion_vocabulary.motions:
            return {}, text
        parsed = MotionPromptParser(self.motion_vocabulary, self.concept_vocabulary).parse(text)
        motions = {}
        for subject in parsed.subjects:
            names = [token.get_value("object") for token in self._tables.tokenizer.tokenize(subject.phrase)[0]]
            if subject.motion is not None and (named := [name for name in names if name is not None]):
                motions[named[-1]] = subject.motion
        return motions, parsed.static_prompt if motions else text

    def _is_clean(self, text: str, vocabulary: Vocabulary) -> bool:
        """True for a text of known words alone, in the characters of the model's captions."""
        position = 0
        for match in WORD_PATTERN.finditer(text):
            gap = text[position : match.start()]
            if CLEAN_GAP.fullmatch(gap) is None or (gap[-1:].isdigit() and not match["zh"]):
                return False
            if vocabulary.find_unknown_words(match[0]):
                return False
            position = match.end()
        is_end_clean = CLEAN_GAP.fullmatch(text[position:]) is not None and not text[-1:].isdigit()
        has_compound = any(match["compound"] for match in self._tables.chinese_pattern.finditer(text))
        return is_end_clean and not has_compound and not REPEATED_PUNCTUATION.search(text)

    def _names_something(self, text: str, trigger_words: Sequence[str]) -> bool:
        """True for a text with an object, a background, a motion or a trigger word."""
        is_named = self._tables.name_pattern.search(text) is not None
        return is_named or contains_any(text, trigger_words) or self.motion_vocabulary.find(text) is not None

    def _select_reported(self, unknown: Sequence[str]) -> list[str]:
        """Select the words to report: not filler, and nothing that the vocabulary knows."""
        words = [word for text in unknown for word in self.vocabulary.find_unknown_words(text)]
        return [word for word in words if word not in self._tables.ignored_words]

    def _suggest(self, words: Sequence[str]) -> tuple[LeftOutWord, ...]:
        unique = dict.fromkeys(words)
        return tuple(LeftOutWord(word=word, nearest=self._find_nearest(word)) for word in unique)

    def _find_nearest(self, word: str) -> tuple[str, ...]:
        is_named = word.isdigit() or self.concept_vocabulary.find_colour(word) is not None
        return () if is_named else self._tables.corrector.suggest(word)

    def _make_error(self, prompt: str, left_out: Sequence[str], scene: PromptScene | None) -> DianjingError:
        language = detect_language(prompt)
        examples = [self._translate(name, language) for name in EXAMPLE_NAMES]
        nearest = [name for word in self._suggest(left_out) for name in word.nearest]
        names = list(dict.fromkeys([*nearest, *examples]))[: len(EXAMPLE_NAMES)]
        if scene is not None and scene.absent:
            absent = [self._translate(name, language) for name in scene.absent]
            return DianjingError("prompt_only_negated", words=absent, suggestions=names)
        if left_out:
            return DianjingError("prompt_words_unknown", words=list(dict.fromkeys(left_out)), suggestions=names)
        return DianjingError("prompt_names_nothing", suggestions=names)

    def _translate(self, name: str, language: Language) -> str:
        known = self.concept_vocabulary.find_object(name) or self.concept_vocabulary.find_background(name)
        if known is None or language == "en":
            return name
        return getattr(known, "name_zh", None) or known.names_zh[0]  # type: ignore[union-attr]

    def _translate_colour(self, name: str, text: str) -> str:
        known = self.concept_vocabulary.find_colour(name)
        return name if known is None or detect_language(text) == "en" else known.name_zh


def describe_words(nearest: Mapping[str, Sequence[str]]) -> list[Message | str]:
    """Describe unknown words, each with the known names that look most like it."""
    return [
        Message("word_with_nearest", word=word, nearest=list(names)) if names else word
        for word, names in nearest.items()
    ]


class KnownWordsMixin:
    """Normalization of prompts for the bundled model, and the words that a model does not know."""

    vocabulary: Vocabulary | None
    concept_vocabulary: ConceptVocabulary | None
    _is_bundled: bool

    def list_trigger_words(self) -> list[str]:
        """List the words that the active adapters gave a meaning to."""
        raise NotImplementedError

    @cached_property
    def prompt_normalizer(self) -> PromptNormalizer | None:
        """Normalizer of prompts of the bundled model; None for every other model, which takes prompts as they are."""
        if not self._is_bundled or self.vocabulary is None or self.concept_vocabulary is None:
            return None
        return PromptNormalizer(self.vocabulary, self.concept_vocabulary, self._prompt_motions)

    @property
    def _prompt_motions(self) -> MotionVocabulary:
        """Motions that a prompt may name: none for images."""
        return MotionVocabulary()

    def normalize_prompts(self, prompt: str | list[str] | None) -> str | list[str] | None:
        """Convert prompts to the words that the bundled model knows; those of other models stay as they are.

        Raises: DianjingError for a prompt without anything that the model can draw.
        """
        if prompt is None or self.prompt_normalizer is None:
            return prompt
        words = self.list_trigger_words()
        if isinstance(prompt, str):
            return self.prompt_normalizer.normalize(prompt, words).text
        return [self.prompt_normalizer.normalize(text, words).text for text in prompt]

    def find_unknown_words(self, prompt: str) -> list[str]:
        """List the words that neither this model nor an active adapter was trained on; empty without a vocabulary."""
        return list(self.find_nearest_words(prompt))

    def find_nearest_words(self, prompt: str) -> dict[str, tuple[str, ...]]:
        """Map each unknown word of a prompt to the known names that look most like it."""
        if self.vocabulary is None:
            return {}
        words = self.list_trigger_words()
        if self.prompt_normalizer is not None:
            return self.prompt_normalizer.find_nearest_words(prompt, words)
        return dict.fromkeys(self.vocabulary.with_words(words).find_unknown_words(prompt), ())

    def warn_about_unknown_words(self, prompt: str | list[str] | None) -> None:
        """Log each unknown word once for a pipeline, with the name of a model that is not limited to a vocabulary."""
        warned = self.__dict__.setdefault("_warned_words", set())
        prompts = [prompt] if isinstance(prompt, str) else prompt or []
        nearest = {word: names for text in prompts for word, names in self.find_nearest_words(text).items()}
        new = {word: names for word, names in nearest.items() if word not in warned}
        if not new:
            return
        warned.update(new)
        larger = next((model.name for model in registry.MODELS if model.bundled_folder is None), None)
        hint = f'; "{larger}" generates from any words' if larger else ""
        from diffusers.utils import logging  # the normalizer itself takes no time to import

        logging.get_logger(__name__).warning(
            f"this model does not know: {', '.join(map(str, describe_words(new)))}{hint}"
        )
