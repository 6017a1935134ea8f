"""Text to what it says, word by word: the longest word that is known goes first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dianjing.pipelines.conversation import words
from dianjing.pipelines.lexicon import HAN
from dianjing.pipelines.names import Names

IS_CHINESE = re.compile(f"[{HAN}]")
LATIN = re.compile(rf"[^\W\d_{HAN}]+|\d+")
JOINTS = ("", "-", "'", "'-")  # between the parts of an English name
EMOJI = re.compile(r"[\u2600-\u27bf\U0001f000-\U0001faff]")


def language_of(text: str) -> str:
    """ "zh" where any Chinese character is, else "en"."""
    return "zh" if IS_CHINESE.search(text) else "en"


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word and what it may mean: "object cat", "colour red", "place left", "add" ...; nothing where it is idle."""

    text: str
    meanings: frozenset[str]

    def value(self, kind: str) -> str | None:
        """What it says of a kind: "cat" of "object"."""
        return next((m[len(kind) + 1 :] for m in self.meanings if m.startswith(f"{kind} ")), None)


@dataclass(frozen=True)
class Reader:
    """Reads with the names that a model knows and the words of edits."""

    names: Names

    @cached_property
    def _meanings(self) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for word in f"{words.IDLE_EN} {words.IDLE_ZH}".split():
            found[word] = set()
        for said, meaning in self._said():
            found.setdefault(said, set()).add(meaning)
        return {said: frozenset(_clearest(meanings)) for said, meanings in found.items() if said}

    def _said(self) -> Iterator[tuple[str, str]]:
        for entry in self.names.objects:
            for name in (*entry.names_en, *entry.plurals_en, *entry.names_zh):
                known = self.names.find_object(name)
                if known is entry:
                    yield name.lower(), f"object {entry.names_en[0]}"
        for colour in self.names.colours:
            for name in (colour.name_en, colour.name_zh, f"{colour.name_zh}的", colour.name_zh[:-1]):
                yield name, f"colour {colour.name_en}"
        for background in self.names.backgrounds:
            aliases = words.BACKGROUNDS.get(background.name_en, "").split(", ")
            where = (*background.where_en, *background.where_zh, background.name_en, background.name_zh)
            yield from ((name, f"background {background.name_en}") for name in (*where, *aliases))
        for table in (words.ENGLISH, words.CHINESE):
            for meaning, said in table.items():
                yield from ((word, meaning) for word in said.split(", "))
                if table is words.ENGLISH and meaning.startswith("place "):
                    yield from ((f"{at} the {word}", meaning) for word in said.split(", ") for at in words.AT)

    @cached_property
    def _longest(self) -> tuple[int, int]:
        """Of the Chinese words in characters, and of the others in words."""
        chinese = max(len(word) for word in self._meanings if IS_CHINESE.search(word))
        return chinese, max(len(LATIN.findall(word)) for word in self._meanings if not IS_CHINESE.search(word))

    def read(self, text: str) -> tuple[list[Word], list[str]]:
        """The words of a text, and what in it is not known."""
        known: list[Word] = []
        unknown: list[tuple[int, int]] = []
        text = text.lower().replace("’", "'")
        start = 0
        while start < len(text):
            end, word = self._next(text, start)
            if word is not None:
                known.append(word)
            elif unknown and unknown[-1][1] == start and IS_CHINESE.match(text, start):
                unknown[-1] = unknown[-1][0], end  # Chinese characters side by side are one word
            else:
                unknown.append((start, end))
            start = end
        return known, list(dict.fromkeys(text[first:end] for first, end in unknown))

    def _next(self, text: str, start: int) -> tuple[int, Word | None]:
        """Where the word at `start` ends, and the word, None for an unknown one; what is no word is idle."""
        ends = [min(len(text), start + length) for length in range(self._longest[0], 0, -1)]
        if (end := next((end for end in ends if text[start:end] in self._chinese), None)) is not None:
            return end, self._word(text[start:end])
        ends = self._latin_ends(text, start)
        if not ends:
            is_word = IS_CHINESE.match(text, start) or EMOJI.match(text, start)
            return start + 1, None if is_word else Word(text=text[start], meanings=frozenset())
        for end in reversed(ends):
            said = " ".join(text[start:end].split())
            if said in self._meanings:
                return end, self._word(said)
        return ends[0], None

    def _word(self, said: str) -> Word:
        return Word(text=said, meanings=self._meanings[said])

    @cached_property
    def _chinese(self) -> frozenset[str]:
        return frozenset(word for word in self._meanings if IS_CHINESE.search(word))

    def _latin_ends(self, text: str, start: int) -> list[int]:
        """Where one, two, three ... words from `start` end."""
        ends: list[int] = []
        for match in LATIN.finditer(text, start):
            joint = text[ends[-1] if ends else start : match.start()]
            if len(ends) == self._longest[1] or (joint.strip(" ") not in JOINTS if ends else joint):
                break
            ends.append(match.end())
        return ends


def _clearest(meanings: set[str]) -> set[str]:
    """A thing that has a name is meant by it; a word with a meaning is idle nowhere."""
    named = {m for m in meanings if m.startswith("object ")} or {m for m in meanings if m.startswith("background ")}
    return named or meanings
