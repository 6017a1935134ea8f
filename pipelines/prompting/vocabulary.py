"""Words that a small model was trained on, so that unknown words of a prompt can be reported."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dianjing.errors import DianjingError

VOCABULARY_FILE = "vocabulary.json"
HAN_RANGES = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"


# a run of Chinese characters, a word of any other script, or a symbol such as an emoji
WORD_PATTERN = re.compile(
    rf"(?P<zh>[{HAN_RANGES}]+)|(?P<word>[^\W\d_{HAN_RANGES}]+(?:['’-][^\W\d_{HAN_RANGES}]+)*)|(?P<symbol>[\u2600-\u27bf\U0001f000-\U0001faff])"
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Known words by language; of an English entry of several words each word is known."""

    zh: frozenset[str]
    en: frozenset[str]

    @classmethod
    def from_file(cls, path: Path) -> "Vocabulary":
        """Read {"zh": [...], "en": [...]}.

        Raises: DianjingError for any other content.
        """
        try:
            words = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DianjingError("file_no_json", path=path, reason=str(error)) from None
        if not isinstance(words, dict) or not all(
            isinstance(words.get(language), list) and all(isinstance(word, str) for word in words[language])
            for language in ("zh", "en")
        ):
            raise DianjingError("vocabulary_file_invalid", path=path)
        return cls(zh=frozenset(words["zh"]), en=frozenset(words["en"]))

    def save(self, path: Path) -> None:
        """Write the words as JSON."""
        words = {"zh": sorted(self.zh), "en": sorted(self.en)}
        path.write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def find_unknown_words(self, text: str) -> list[str]:
        """List the words of a text that the vocabulary lacks, in order, each once."""
        return list(dict.fromkeys(self._iterate_unknown_words(text)))

    def with_words(self, phrases: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary with all words of some phrases of either language."""
        matches = [match for phrase in phrases for match in _iterate_words(phrase)]
        zh, en = ({match[0] for match in matches if bool(match["zh"]) == is_zh} for is_zh in (True, False))
        return Vocabulary(zh=self.zh | zh, en=self.en | en) if matches else self

    @cached_property
    def _known_words(self) -> frozenset[str]:
        return self.zh | {match[0] for entry in self.en for match in _iterate_words(entry)}

    @cached_property
    def _max_word_length(self) -> int:
        return max(map(len, self.zh), default=0)

    def _iterate_unknown_words(self, text: str) -> Iterator[str]:
        for match in _iterate_words(text):
            if match["zh"]:
                yield from self._iterate_unknown_chinese(match["zh"])
            elif match[0] not in self._known_words:
                yield match[0]

    def _iterate_unknown_chinese(self, text: str) -> Iterator[str]:
        """Match the longest known word first; the characters between two known words are one unknown word."""
        start = unknown_from = 0
        while start < len(text):
            ends = range(min(len(text), start + self._max_word_length), start, -1)
            end = next((end for end in ends if text[start:end] in self.zh), None)
            if end is None:
                start += 1
                continue
            if unknown_from < start:
                yield text[unknown_from:start]
            start = unknown_from = end
        if unknown_from < len(text):
            yield text[unknown_from:]


def _iterate_words(text: str) -> Iterator[re.Match[str]]:
    return WORD_PATTERN.finditer(text.lower())
