"""What the words of a film ask for: what is in the picture, and what of it moves how.

"a cat jumping and a dog on the grass" is a picture of "a cat and a dog on the grass" in which "a cat" is jumping. Where
the words leave open how two things stand to each other, each is given a place where it has room to move: a model that
has to choose draws mixtures of both ways.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.prompting.placement import choose_placement
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

CONJUNCTION = re.compile(r"(\s*[,，、;；。.]\s*|\s+and\s+|和|还有|与)", re.IGNORECASE)  # between what is in a picture
COPULA = re.compile(r"\s+(?:is|are|that is|that are)\s*$|(?:正在|在|正)$", re.IGNORECASE)  # before a motion
LINKING_PARTICLE = re.compile(r"[的有里上是]+")  # before what a Chinese place holds
NUMERALS = {"two": 2, "2": 2, "两": 2, "二": 2, "three": 3, "3": 3, "三": 3, "four": 4, "4": 4, "四": 4}
POSITION_WORD = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|above|below|over|under|beneath|middle|cent(?:er|re)|corner)\b|[左右上下中角旁边间]",
    re.IGNORECASE,
)
HAN_CHARACTER = re.compile(f"[{HAN_RANGES}]")
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something in the picture: its words, how many of it, the picture's words without it, and those of its motion."""

    phrase: str
    count: int
    prompt_without: str
    motion: str | None


@dataclass(frozen=True, kw_only=True)
class MotionPrompt:
    """A film's picture in words, the same with a place for each of two things, and its parts in their order."""

    static_prompt: str
    placed_prompt: str
    subjects: tuple[Subject, ...] = ()


@dataclass(frozen=True)
class MotionPromptParser:
    """Reads with the motions a model was taught, and the names it knows, if any.

    Each motion belongs to what is named before it, or else to the first. Without names that is whatever stands between
    two joints.
    """

    motion_vocabulary: MotionVocabulary
    concept_vocabulary: ConceptVocabulary | None = None

    def parse(self, prompt: str) -> MotionPrompt:
        places, nouns = self._find_backgrounds_and_objects(prompt)
        verbs = _find_spans(prompt, self._motion_pattern, occupied=[*places, *nouns])
        if self.concept_vocabulary is None:
            nouns = [
                (max((j.end() for j in CONJUNCTION.finditer(prompt, 0, first)), default=0), first) for first, _ in verbs
            ]
        moves: dict[Span, str] = {}
        for first, last in verbs:
            before = [noun for noun in nouns if noun[1] <= first] or nouns[:1]
            if before:
                moves.setdefault(before[-1], prompt[first:last])
        still, parts = _remove_motions(prompt, verbs), []
        if self.concept_vocabulary is not None:
            still = _join_clauses(still, self._find_backgrounds_and_objects(still)[1])
        for noun in nouns:
            subject = prompt[slice(*_include_adjectives(prompt, noun, [*places, *verbs, *nouns]))]
            subject = COPULA.sub("", subject).strip()
            without, count = _remove_phrase(still, subject), _parse_count(subject)
            parts.append(Subject(phrase=subject, count=count, prompt_without=without, motion=moves.get(noun)))
        return MotionPrompt(static_prompt=still, placed_prompt=self._add_positions(still, parts), subjects=tuple(parts))

    def _add_positions(self, static_prompt: str, subjects: list[Subject]) -> str:
        """Two things that only a joint stands between, each in its place, where none is said."""
        if self.concept_vocabulary is None or [part.count for part in subjects] != [1, 1]:
            return static_prompt
        if POSITION_WORD.search(self._object_pattern.sub("", self._background_pattern.sub("", static_prompt))):
            return static_prompt
        first, second = (part.phrase for part in subjects)
        listed = re.compile(f"{re.escape(first)}{CONJUNCTION.pattern}{re.escape(second)}", re.IGNORECASE)
        layout = choose_placement([self.motion_vocabulary.get_extent(part.motion) for part in subjects])
        words = layout.template_zh if HAN_CHARACTER.search(static_prompt) else layout.template_en
        return listed.sub(lambda _: words.format(first, second), static_prompt, count=1)

    def _find_backgrounds_and_objects(self, text: str) -> tuple[list[Span], list[Span]]:
        """Of nouns side by side, such as 一桶爆米花, the last one is meant."""
        places = _find_spans(text, self._background_pattern)
        nouns = _find_spans(text, self._object_pattern, occupied=places)
        return places, [noun for noun in nouns if all(noun[1] != other[0] for other in nouns)]

    @cached_property
    def _motion_pattern(self) -> re.Pattern[str]:
        return _compile_alternatives(word for motion in self.motion_vocabulary.motions for word in motion.phrases)

    @cached_property
    def _object_pattern(self) -> re.Pattern[str]:
        entries = () if self.concept_vocabulary is None else self.concept_vocabulary.objects
        return _compile_alternatives(name for e in entries for name in (*e.names_en, *e.plurals_en, *e.names_zh))

    @cached_property
    def _background_pattern(self) -> re.Pattern[str]:
        entries = () if self.concept_vocabulary is None else self.concept_vocabulary.backgrounds
        return _compile_alternatives(
            name for e in entries for name in (*e.location_phrases_en, *e.location_phrases_zh, e.name_en, e.name_zh)
        )


def _compile_alternatives(words: Iterable[str]) -> re.Pattern[str]:
    """The longest goes first; whole words where they have spaces between them."""
    different = sorted({word.lower() for word in words if word}, key=lambda word: (-len(word), word))
    said = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in different]
    return re.compile("|".join(said) or r"(?!)", re.IGNORECASE | re.ASCII)


def _find_spans(text: str, pattern: re.Pattern[str], occupied: Iterable[Span] = ()) -> list[Span]:
    """Where a pattern is found and nothing else was."""
    occupied = list(occupied)
    found = (match.span() for match in pattern.finditer(text))
    return [(a, b) for a, b in found if all(b <= first or last <= a for first, last in occupied)]


def _parse_count(phrase: str) -> int:
    first = phrase.lower().split()[:1] or [""]
    return NUMERALS.get(first[0], NUMERALS.get(phrase[:1], 1))


def _include_adjectives(text: str, noun: Span, others: Iterable[Span]) -> Span:
    """From the last joint, place, motion or noun before it."""
    edges = [joint.end() for joint in CONJUNCTION.finditer(text, 0, noun[0])]
    start = max([*edges, *(end for _, end in others if end <= noun[0])], default=0)
    if binding := LINKING_PARTICLE.match(text, start, noun[0]):
        start = binding.end()
    return start, noun[1]


def _remove_motions(prompt: str, motion_spans: Iterable[Span]) -> str:
    """The picture's words."""
    said, at = "", 0
    for first, last in motion_spans:
        said, at = said + COPULA.sub("", prompt[at:first].rstrip()), last
    return " ".join((said + prompt[at:]).split()).strip(" ,，")


def _join_clauses(static_prompt: str, nouns: list[Span]) -> str:
    """Clauses that have lost their verbs, as a list: 一顶草帽和一副眼镜."""
    for (_, last), (first, _) in reversed(list(pairwise(nouns))):
        if comma := re.compile(r"\s*[,，]\s*").match(static_prompt, last, first):
            joint = "和" if HAN_CHARACTER.search(static_prompt) else " and "
            static_prompt = static_prompt[: comma.start()] + joint + static_prompt[comma.end() :]
    return static_prompt


def _remove_phrase(static_prompt: str, phrase: str) -> str:
    """The picture's words without a subject, and without the joint that bound it to the rest."""
    pieces = CONJUNCTION.split(static_prompt.replace(phrase, "\0", 1))
    said, joint = "", ""
    for text, after in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        rest = text.replace("\0", "").strip()
        if rest:
            said += (joint if said and "\0" not in text else " " if said else "") + rest
        joint = after if rest or not joint else joint
    return said.strip(" ,，")
