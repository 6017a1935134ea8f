"""Phrases of a prompt that are put in other words before it is read: excluded attributes, and sides of an object.

An excluded color ("a car that is not red") becomes one character, by which its object gets another color; an excluded
size or position says nothing that could be drawn, and leaves the text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dianjing.pipelines.conversation.parsing.base import HAN_PATTERN
from dianjing.pipelines.conversation.parsing.tokenizer import Token
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.normalization import word_lists
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

FIRST_EXCLUDED = 0xE000  # private characters of Unicode, one for each color that an object must not have
PREFERRED_COLOURS = ("blue", "yellow", "red")  # of an object whose color is excluded
ATTRIBUTE_SENSES = ("colour", "big", "small", "position")
NOT_EN = r"\b(?:(?:that|which)\s+)?(?:(?:is|are|was|were)(?:\s+not|n't)|not|non)(?:\s+|-)(?:in\s+)?"
NOT_ZH = r"(?:并不是|并非|不是|不在|除了|非)(?:在|很|太)?"
NOT_ZH_BEFORE_END = r"不(?:很|太)?"  # where the attribute ends the phrase: 不大的猫, and not 不大可能
WORD_END_ZH = r"(?=的|或|和|、|[,，]|$)"  # after a color or a size of one character: 白的, and not 白天
# characters that a short name stands beside, so that it is no part of another word (消防车, 车站)
BEFORE_SHORT_NAME = "的有和或与、，在是色红橙黄绿蓝紫粉棕黑白大小左右上下边侧面个只辆部台座间一两二三四"
AFTER_SHORT_NAME = "的有和或与、，在是不没左右上下旁前后里边"
SIDES_ZH = {"上": "上面", "下": "下面"}


@dataclass(frozen=True)
class PhraseConverter:
    """Converts phrases around the words of one model. words: those of its tokenizer, with the type of their sense."""

    vocabulary: ConceptVocabulary
    words: dict[str, str]

    def convert(self, text: str) -> str:
        """Convert the phrases of a text in lower case."""
        for pattern in self._negations:
            text = pattern.sub(self._exclude, text)
        if HAN_PATTERN.search(text):
            text = self._short_names.sub(lambda match: word_lists.SYNONYMS_ZH.get(match[0], match[0]), text)
            text = self._sides.sub(lambda match: f"{match[1]}{SIDES_ZH[match[2]]}", text)
        return text

    def _exclude(self, match: re.Match[str]) -> str:
        """Put the characters of its colors in place of a negation; one of a name (红灯笼) stays as it is."""
        name = self._names.match(match.string, match.start("first"))
        if name is not None and name.end() > match.end("first"):
            return match[0]
        names = [colour.name_en for colour in self.vocabulary.colours]
        words = re.findall(_join(self._attributes), match["attributes"])
        found = [colour for colour in map(self.vocabulary.find_colour, words) if colour is not None]
        excluded = "".join(chr(FIRST_EXCLUDED + names.index(colour.name_en)) for colour in found)
        return excluded if HAN_PATTERN.search(match[0]) else f" {excluded} "

    @cached_property
    def _attributes(self) -> list[str]:
        colours = [word for c in self.vocabulary.colours for word in (c.name_en, c.name_zh, c.name_zh[:-1])]
        return [*colours, *(word for word, sense in self.words.items() if sense in ATTRIBUTE_SENSES[1:])]

    @cached_property
    def _negations(self) -> tuple[re.Pattern[str], ...]:
        english = _join(word for word in self._attributes if word.isascii())
        words = [word.removesuffix("的") for word in self._attributes if not word.isascii()]
        long, short = _join(word for word in words if len(word) > 1), _join(word for word in words if len(word) == 1)
        chinese = rf"{long}|(?:{short}){WORD_END_ZH}"
        more_en = rf"(?P<attributes>(?P<first>{english})(?:\s*(?:,|\bor|\band|\bnor)\s+(?:{english})\b)*)\b"
        more_zh = rf"(?P<attributes>(?P<first>{chinese})(?:的?(?:和|或者|或|、)(?:{chinese}))*)"
        return (
            re.compile(rf"{NOT_EN}{more_en}(?!\s+back)"),
            re.compile(rf"{NOT_ZH}{more_zh}(?:以外|之外)?(?!的?(?:背景|底))"),
            re.compile(rf"{NOT_ZH_BEFORE_END}{more_zh}{WORD_END_ZH}(?!的?(?:背景|底))"),
        )

    @cached_property
    def _names(self) -> re.Pattern[str]:
        return re.compile(_join(word for word, sense in self.words.items() if sense in ("object", "background")))

    @cached_property
    def _short_names(self) -> re.Pattern[str]:
        """Pattern of the synonyms that stand by themselves, and before them of all words that hold one."""
        short = word_lists.SYNONYMS_ZH
        longer = [word for word in (*self.words, *word_lists.COMPOUNDS_ZH) if any(name in word for name in short)]
        before, after = (rf"[^{HAN_RANGES}]|[{each}]" for each in (BEFORE_SHORT_NAME, AFTER_SHORT_NAME))
        return re.compile(rf"{_join(longer)}|(?:(?<={before})|^)(?:{_join(short)})(?={after}|$)")

    @cached_property
    def _sides(self) -> re.Pattern[str]:
        """Pattern of 树上的 and 树下有: a side of an object that no other word says (上面, 上方)."""
        names = [name for entry in self.vocabulary.objects for name in entry.names_zh]
        return re.compile(rf"({_join(names)})([上下])(?=的|有|是)")


def _join(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(dict.fromkeys(words), key=len, reverse=True)))


def get_excluded_token(colour: str, vocabulary: ConceptVocabulary) -> Token:
    """Make the token of an excluded color, by its English name."""
    index = [each.name_en for each in vocabulary.colours].index(colour)
    return Token(text=chr(FIRST_EXCLUDED + index), senses=frozenset())


def choose_other_colours(tokens: Sequence[Token], vocabulary: ConceptVocabulary) -> tuple[list[Token], list[str]]:
    """Put another color before each object whose color is excluded and that has none.

    Returns the tokens without those of excluded colors, and the excluded colors of objects that have only their own.
    """
    names = [colour.name_en for colour in vocabulary.colours]
    excluded: dict[int, list[str]] = {}  # by the position of the object
    for index, token in enumerate(tokens):
        if _is_excluded_colour(token, names):
            target = _find_object(tokens, index)
            if target is not None:
                excluded.setdefault(target, []).append(names[ord(token.text) - FIRST_EXCLUDED])
    result: list[Token] = []
    ignored: list[str] = []
    for index, token in enumerate(tokens):
        if index in excluded:
            known = vocabulary.find_object(token.get_value("object") or "")
            if known is not None and known.is_colourable:
                other = next(name for name in (*PREFERRED_COLOURS, *names) if name not in excluded[index])
                result.append(Token(text=other, senses=frozenset({f"colour {other}"})))
            else:
                ignored += excluded[index]
        if not _is_excluded_colour(token, names):
            result.append(token)
    return result, ignored


def _is_excluded_colour(token: Token, names: Sequence[str]) -> bool:
    return len(token.text) == 1 and 0 <= ord(token.text) - FIRST_EXCLUDED < len(names)


def _find_object(tokens: Sequence[Token], index: int) -> int | None:
    """Find the object that an excluded color belongs to: the one right after it, else the one before it.

    None for an object with a color of its own, and for a color of no object.
    """
    ends = (",", "，", "而", "but", "and", "和")
    for position in range(index + 1, len(tokens)):
        token = tokens[position]
        if token.text in ends or token.get_value("colour") is not None:
            break
        if token.get_value("object") is not None:
            return None if _has_colour(tokens, position) else position
    before = [position for position in range(index) if tokens[position].get_value("object") is not None]
    if not before or any(token.get_value("colour") is not None for token in tokens[before[-1] : index + 3]):
        return None
    return None if _has_colour(tokens, before[-1]) else before[-1]


def _has_colour(tokens: Sequence[Token], position: int) -> bool:
    """Return True for an object with a color before it."""
    for token in reversed(tokens[:position]):
        if token.get_value("object") is not None or token.text in (",", "，"):
            return False
        if token.get_value("colour") is not None:
            return True
    return False
