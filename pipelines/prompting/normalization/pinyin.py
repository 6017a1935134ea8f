"""Pinyin in a prompt, with or without spaces and tones: converted to the Chinese words that the model knows."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

NUMBERS = "一两二三四"


def strip_tones(text: str) -> str:
    """Remove tone marks: xiàng -> xiang; ü becomes v."""
    decomposed = unicodedata.normalize("NFD", text.replace("ü", "v"))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


@dataclass(frozen=True)
class PinyinReader:
    """Reader of pinyin by a list of Chinese words, the preferred one of each sound first.

    names: those of the words that name an object or a background; a text without one of them is no pinyin, and one of
    a single character counts by itself or after a number alone ("mali" is not 马里).
    """

    words: Sequence[str]
    names: frozenset[str]

    @cached_property
    def _words_by_sound(self) -> dict[str, list[str]]:
        from pypinyin import lazy_pinyin

        by_sound: dict[str, list[str]] = {}
        for word in self.words:
            by_sound.setdefault("".join(lazy_pinyin(word, v_to_u=False)), []).append(word)
        return by_sound

    def read(self, words: Iterable[str]) -> str | None:
        """Convert syllables to known Chinese words; None for what is not pinyin, or not wholly known."""
        sound = strip_tones("".join(words)).replace("'", "").replace("-", "")
        found = self._split(sound)
        if not found or not any(word in self.names for word in found):
            return None
        has_long_name = any(word in self.names and len(word) > 1 for word in found)
        is_phrase = has_long_name or len(found) == 1 or found[0] in NUMBERS
        return "".join(found) if is_phrase else None

    def _select_word(self, sound: str, before: Sequence[str]) -> str:
        """Select the word of a sound: the preferred one, but no number after a number ("yi liang" is 一辆)."""
        words = self._words_by_sound[sound]
        if before and before[-1] in NUMBERS:
            return next((word for word in words if word not in NUMBERS), words[0])
        return words[0]

    def _split(self, sound: str) -> list[str] | None:
        """Split a sound into the fewest known words."""
        longest = max(map(len, self._words_by_sound))
        best: list[list[str] | None] = [[]]
        for end in range(1, len(sound) + 1):
            options = [
                [*before, self._select_word(sound[start:end], before)]
                for start in range(max(0, end - longest), end)
                if (before := best[start]) is not None and sound[start:end] in self._words_by_sound
            ]
            best.append(min(options, key=len) if options else None)
        return best[-1]
