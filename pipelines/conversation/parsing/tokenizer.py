"""Text to what it says, word by word: the longest word that is known goes first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dianjing.pipelines.conversation.parsing import word_senses
from dianjing.pipelines.conversation.parsing.base import HAN_PATTERN
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

LATIN_WORD_PATTERN = re.compile(rf"[^\W\d_{HAN_RANGES}]+|\d+")
NAME_JOINERS = ("", "-", "'", "'-")  # between the parts of an English name
EMOJI_PATTERN = re.compile(r"[\u2600-\u27bf\U0001f000-\U0001faff]")


@dataclass(frozen=True, kw_only=True)
class Token:
    """One word and what it may mean: "object cat", "colour red", "place left", "add" ...; nothing where it is idle."""

    text: str
    senses: frozenset[str]

    def get_value(self, sense_type: str) -> str | None:
        """What it says of a kind: "cat" of "object"."""
        return next((m[len(sense_type) + 1 :] for m in self.senses if m.startswith(f"{sense_type} ")), None)


@dataclass(frozen=True)
class InstructionTokenizer:
    """Reads with the names that a model knows and the words of edits."""

    concept_vocabulary: ConceptVocabulary

    @cached_property
    def _senses(self) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for word in f"{word_senses.STOPWORDS_EN} {word_senses.STOPWORDS_ZH}".split():
            found[word] = set()
        for said, meaning in self._iterate_senses():
            found.setdefault(said, set()).add(meaning)
        return {said: frozenset(_select_senses(meanings)) for said, meanings in found.items() if said}

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
            where = (
                *background.location_phrases_en,
                *background.location_phrases_zh,
                background.name_en,
                background.name_zh,
            )
            yield from ((name, f"background {background.name_en}") for name in (*where, *aliases))
        for table in (word_senses.ENGLISH_WORDS, word_senses.CHINESE_WORDS):
            for meaning, said in table.items():
                yield from ((word, meaning) for word in said.split(", "))
                if table is word_senses.ENGLISH_WORDS and meaning.startswith("position "):
                    yield from (
                        (f"{at} the {word}", meaning) for word in said.split(", ") for at in word_senses.PREPOSITIONS
                    )

    @cached_property
    def _max_lengths(self) -> tuple[int, int]:
        """Of the Chinese words in characters, and of the others in words."""
        chinese = max(len(word) for word in self._senses if HAN_PATTERN.search(word))
        return chinese, max(
            len(LATIN_WORD_PATTERN.findall(word)) for word in self._senses if not HAN_PATTERN.search(word)
        )

    def tokenize(self, text: str) -> tuple[list[Token], list[str]]:
        """The words of a text, and what in it is not known."""
        known: list[Token] = []
        unknown: list[tuple[int, int]] = []
        text = text.lower().replace("’", "'")
        start = 0
        while start < len(text):
            end, word = self._match_token(text, start)
            if word is not None:
                known.append(word)
            elif unknown and unknown[-1][1] == start and HAN_PATTERN.match(text, start):
                unknown[-1] = unknown[-1][0], end  # Chinese characters side by side are one word
            else:
                unknown.append((start, end))
            start = end
        return known, list(dict.fromkeys(text[first:end] for first, end in unknown))

    def _match_token(self, text: str, start: int) -> tuple[int, Token | None]:
        """Where the word at `start` ends, and the word, None for an unknown one; what is no word is idle."""
        ends = [min(len(text), start + length) for length in range(self._max_lengths[0], 0, -1)]
        if (end := next((end for end in ends if text[start:end] in self._chinese_words), None)) is not None:
            return end, self._make_token(text[start:end])
        ends = self._find_latin_ends(text, start)
        if not ends:
            is_word = HAN_PATTERN.match(text, start) or EMOJI_PATTERN.match(text, start)
            return start + 1, None if is_word else Token(text=text[start], senses=frozenset())
        for end in reversed(ends):
            said = " ".join(text[start:end].split())
            if said in self._senses:
                return end, self._make_token(said)
        return ends[0], None

    def _make_token(self, text: str) -> Token:
        return Token(text=text, senses=self._senses[text])

    @cached_property
    def _chinese_words(self) -> frozenset[str]:
        return frozenset(word for word in self._senses if HAN_PATTERN.search(word))

    def _find_latin_ends(self, text: str, start: int) -> list[int]:
        """Where one, two, three ... words from `start` end."""
        ends: list[int] = []
        for match in LATIN_WORD_PATTERN.finditer(text, start):
            joint = text[ends[-1] if ends else start : match.start()]
            if len(ends) == self._max_lengths[1] or (joint.strip(" ") not in NAME_JOINERS if ends else joint):
                break
            ends.append(match.end())
        return ends


def _select_senses(senses: set[str]) -> set[str]:
    """A thing that has a name is meant by it; a word with a meaning is idle nowhere."""
    named = {m for m in senses if m.startswith("object ")} or {m for m in senses if m.startswith("background ")}
    return named or senses
