"""Spelling of a prompt: words within one edit of a known one, plurals, and Chinese characters of the same sound."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

LATIN_WORD = re.compile(rf"[^\W\d_{HAN_RANGES}]+(?:['-][^\W\d_{HAN_RANGES}]+)*")
REPEATED_LETTER = re.compile(r"(.)\1+")
REAL_WORDS_FILE = Path(__file__).with_name("real_words.txt")
MIN_LENGTH = 4  # shorter words have too many neighbours
MAX_PHRASE_WORDS = 4
MIN_LENGTH_ZH = 3  # of names in which one character may differ
MIN_LIKENESS_EN, MIN_LIKENESS_ZH = 70, 50  # of suggestions, in percent


def _get_sound(word: str) -> str:
    return word.replace("ph", "f")


def _is_slip(word: str, known: str) -> bool:
    """Return True for one edit that is seldom a word of its own; in short words, letters swapped or doubled alone."""
    if len(known) > MIN_LENGTH:
        return True
    return sorted(word) == sorted(known) or REPEATED_LETTER.sub(r"\1", word) == REPEATED_LETTER.sub(r"\1", known)


def _may_sound_alike(name: str, other: str) -> bool:
    """True if two words have the same sounds and tones by any reading of each character (散 is sǎn and sàn)."""
    from pypinyin import Style, lazy_pinyin, pinyin

    readings = pinyin(other, style=Style.TONE, heteronym=True)
    sounds = lazy_pinyin(name, style=Style.TONE)
    return len(readings) == len(sounds) and all(sound in each for sound, each in zip(sounds, readings, strict=True))


@dataclass(frozen=True, kw_only=True)
class SpellingCorrector:
    """Corrector of words that are one edit from a known one.

    phrases: names that words are corrected to. plurals: of English names, "" for one that has none. known: words that
    stay as they are. names_zh: Chinese names.
    """

    phrases: Collection[str]
    plurals: Mapping[str, str]
    known: Collection[str]
    names_zh: Collection[str]

    def correct_english(self, text: str) -> str:
        """Correct the English words of a text, several at a time where a name has several."""
        words = list(LATIN_WORD.finditer(text))
        result, position, index = "", 0, 0
        while index < len(words):
            size, corrected = self._correct_phrase(text, words[index : index + MAX_PHRASE_WORDS])
            if corrected is not None:
                result += text[position : words[index].start()] + corrected
                position = words[index + size - 1].end()
            index += size
        return result + text[position:]

    def _correct_phrase(self, text: str, words: list[re.Match[str]]) -> tuple[int, str | None]:
        """Return how many words were read, and what replaces them, None where they are known or unknown for good."""
        for size in range(len(words), 0, -1):
            phrase = text[words[0].start() : words[size - 1].end()]
            if phrase in self.phrases:
                return size, None
            if size == 1 and phrase in self.known:
                return 1, self._find_plural(phrase) if phrase.endswith("y") else None
            is_known = all(word[0] in self.known for word in words[:size])
            if not is_known and "," not in phrase and (corrected := self._find_nearest(phrase)) is not None:
                return size, corrected
        return 1, None

    def _find_nearest(self, phrase: str) -> str | None:
        if (plural := self._find_plural(phrase)) is not None:
            return plural
        if len(phrase) < MIN_LENGTH or phrase in self._real_words:
            return None
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import extract

        sounds, sound = self._phrases_by_sound, _get_sound(phrase)
        near = extract(sound, list(sounds), scorer=OSA.distance, score_cutoff=1, limit=8)
        return next((sounds[known] for known, _, _ in near if known[0] == sound[0] and _is_slip(sound, known)), None)

    def _find_plural(self, word: str) -> str | None:
        """Find the known form of a plural by the rules alone ("foxs", "mouses"), or of a singular that has none."""
        stems = [word[:-1], word[:-2]] if word.endswith("s") else []
        stems += [f"{word[:-3]}y"] if word.endswith("ies") else []
        for stem in stems:
            if stem in self.plurals:
                return self.plurals[stem] or stem
        forms = [f"{word[:-1]}ies"] if word in self.known else [f"{word[:-1]}ies", f"{word}s", f"{word}es"]
        return next((form for form in forms if form in self.phrases), None)

    @cached_property
    def _phrases_by_sound(self) -> dict[str, str]:
        by_sound: dict[str, str] = {}
        for phrase in self.phrases:
            by_sound.setdefault(_get_sound(phrase), phrase)
        return by_sound

    @cached_property
    def _real_words(self) -> frozenset[str]:
        lines = REAL_WORDS_FILE.read_text(encoding="utf-8").splitlines()
        return frozenset(word for line in lines if not line.startswith("#") for word in line.split())

    def correct_chinese(self, text: str, unknown: Iterable[str]) -> str:
        """Correct Chinese names with one wrong character, or with others of the same sound, around unknown words."""
        for word in unknown:
            if (full := self._full_names.get(word)) is not None:
                text = text.replace(word, full)
                continue
            start = text.find(word)
            found = None if start < 0 else self._find_chinese(text, start, start + len(word))
            if found is not None:
                text = text.replace(*found, 1)
        return text

    def _find_chinese(self, text: str, start: int, end: int) -> tuple[str, str] | None:
        """Find a wrong name that overlaps the unknown word at [start, end), and the right one."""
        for length in (5, 4, 3, 2):
            names = [name for name in self.names_zh if len(name) == length]
            for first in range(max(0, start - length + 1), min(end, len(text) - length + 1)):
                window = text[first : first + length]
                if length >= MIN_LENGTH_ZH:
                    near = [name for name in names if sum(a != b for a, b in zip(name, window, strict=True)) == 1]
                else:
                    near = [name for name in names if {*name} & {*window} and _may_sound_alike(name, window)]
                if near:
                    return window, near[0]
        return None

    @cached_property
    def _full_names(self) -> dict[str, str]:
        """Names by the one character that is short for them: 鸭 -> 鸭子, 象 -> 大象."""
        full: dict[str, str] = {}
        for index, affix in ((1, "子"), (0, "小"), (0, "大"), (0, "老")):
            for name in self.names_zh:
                if len(name) == 2 and name[index] == affix:
                    full.setdefault(name[1 - index], name)
        return full

    def suggest(self, word: str, *, limit: int = 3) -> tuple[str, ...]:
        """Return the known names that contain an unknown word or look most like it, none where none does."""
        from rapidfuzz.fuzz import ratio
        from rapidfuzz.process import extract

        is_english = word.isascii()
        names = [name for name in self.plurals if name.isascii()] if is_english else list(self.names_zh)
        found = extract(
            word, names, scorer=ratio, score_cutoff=MIN_LIKENESS_EN if is_english else MIN_LIKENESS_ZH, limit=limit
        )
        containing = [name for name in names if word in name] if len(word) > 1 else []
        return tuple(dict.fromkeys([*containing, *(name for name, _, _ in found)]))[:limit]
