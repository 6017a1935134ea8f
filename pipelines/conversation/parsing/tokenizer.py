"""Tokenizer of instructions: greedy longest match of known words, each with the senses it may have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from dianjing.pipelines.conversation.parsing import word_senses
from dianjing.pipelines.conversation.parsing.base import HAN_PATTERN
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

LATIN_WORD_PATTERN = re.compile(rf"[^\W\d_{HAN_RANGES}]+|\d+")
NAME_JOINERS = ("", "-", "'", "'-")  # between the parts of an English name
EMOJI_PATTERN = re.compile(r"[\u2600-\u27bf\U0001f000-\U0001faff]")


@dataclass(frozen=True, kw_only=True)
class Token:
    """One word and its possible senses, such as "object cat", "colour red", "position left" or "add".

    A stopword has no sense.
    """

    text: str
    senses: frozenset[str]

    def get_value(self, sense_type: str) -> str | None:
        """Return the value of a sense of this type, such as "cat" for "object", or None."""
        return next((s.removeprefix(f"{sense_type} ") for s in self.senses if s.startswith(f"{sense_type} ")), None)


@dataclass(frozen=True)
class InstructionTokenizer:
    """Splits texts into the names that a model knows, the words of edits and stopwords."""

    concept_vocabulary: ConceptVocabulary

    @cached_property
    def _senses(self) -> dict[str, frozenset[str]]:
        table: dict[str, set[str]] = {}
        for word in f"{word_senses.STOPWORDS_EN} {word_senses.STOPWORDS_ZH}".split():
            table[word] = set()
        for word, sense in self._iterate_senses():
            table.setdefault(word, set()).add(sense)
        return {word: frozenset(_select_senses(senses)) for word, senses in table.items() if word}

    def _iterate_senses(self) -> Iterator[tuple[str, str]]:
        for entry in self.concept_vocabulary.objects:
            for name in (*entry.names_en, *entry.plurals_en, *entry.names_zh):
                known = self.concept_vocabulary.find_object(name)
                if known is entry:
                    yield name.lower(), f"object {entry.names_en[0]}"
        for colour in self.concept_vocabulary.colours:
            for name in (colour.name_en, colour.name_zh, f"{colour.name_zh}的", colour.name_zh[:-1]):
                yield name, f"colour {colour.name_en}"
        for background in self.concept_vocabulary.backgrounds:
            aliases = word_senses.BACKGROUND_ALIASES.get(background.name_en, "").split(", ")
            names = (
                *background.location_phrases_en,
                *background.location_phrases_zh,
                background.name_en,
                background.name_zh,
                *aliases,
            )
            yield from ((name, f"background {background.name_en}") for name in names)
        for table in (word_senses.ENGLISH_WORDS, word_senses.CHINESE_WORDS):
            for sense, words in table.items():
                yield from ((word, sense) for word in words.split(", "))
                if table is word_senses.ENGLISH_WORDS and sense.startswith("position "):
                    pairs = product(words.split(", "), word_senses.PREPOSITIONS)
                    yield from ((f"{preposition} the {word}", sense) for word, preposition in pairs)

    @cached_property
    def _max_lengths(self) -> tuple[int, int]:
        """Length of the longest Chinese entry in characters, and of the longest other entry in words."""
        chinese = max(len(word) for word in self._senses if HAN_PATTERN.search(word))
        return chinese, max(
            len(LATIN_WORD_PATTERN.findall(word)) for word in self._senses if not HAN_PATTERN.search(word)
        )

    def list_words(self) -> dict[str, str]:
        """List the known words with the type of their first sense, such as "object"; "" for a stopword."""
        return {word: min(senses, default="").split(" ")[0] for word, senses in self._senses.items()}

    def tokenize(self, text: str) -> tuple[list[Token], list[str]]:
        """Return the known words of a text as tokens, and its unknown words, each once."""
        tokens: list[Token] = []
        unknown: list[tuple[int, int]] = []
        text = text.lower().replace("’", "'")
        start = 0
        while start < len(text):
            end, token = self._match_token(text, start)
            if token is not None:
                tokens.append(token)
            elif unknown and unknown[-1][1] == start and HAN_PATTERN.match(text, start):
                unknown[-1] = unknown[-1][0], end  # adjacent Chinese characters are one unknown word
            else:
                unknown.append((start, end))
            start = end
        return tokens, list(dict.fromkeys(text[first:end] for first, end in unknown))

    def _match_token(self, text: str, start: int) -> tuple[int, Token | None]:
        """Return where the word at `start` ends, and its token, None for an unknown word; punctuation has no sense."""
        ends = [min(len(text), start + length) for length in range(self._max_lengths[0], 0, -1)]
        if (end := next((end for end in ends if text[start:end] in self._chinese_words), None)) is not None:
            return end, self._make_token(text[start:end])
        ends = self._find_latin_ends(text, start)
        if not ends:
            is_word = HAN_PATTERN.match(text, start) or EMOJI_PATTERN.match(text, start)
            return start + 1, None if is_word else Token(text=text[start], senses=frozenset())
        for end in reversed(ends):
            word = " ".join(text[start:end].split())
            if word in self._senses:
                return end, self._make_token(word)
        return ends[0], None

    def _make_token(self, text: str) -> Token:
        return Token(text=text, senses=self._senses[text])

    @cached_property
    def _chinese_words(self) -> frozenset[str]:
        return frozenset(word for word in self._senses if HAN_PATTERN.search(word))

    def _find_latin_ends(self, text: str, start: int) -> list[int]:
        """Return where one, two, three ... words from `start` on end."""
        ends: list[int] = []
        for match in LATIN_WORD_PATTERN.finditer(text, start):
            gap = text[ends[-1] if ends else start : match.start()]
            if len(ends) == self._max_lengths[1] or (gap.strip(" ") not in NAME_JOINERS if ends else gap):
                break
            ends.append(match.end())
        return ends


def _select_senses(senses: set[str]) -> set[str]:
    """Return the object senses if there are any, else the background senses, else all."""
    for prefix in ("object ", "background "):
        if selected := {sense for sense in senses if sense.startswith(prefix)}:
            return selected
    return senses
