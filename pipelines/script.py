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

from dianjing.pipelines.lexicon import HAN
from dianjing.pipelines.motions import Motions
from dianjing.pipelines.names import Names
from dianjing.pipelines.staging import choose_layout

JOINT = re.compile(r"(\s*[,，、;；。.]\s*|\s+and\s+|和|还有|与)", re.IGNORECASE)  # between what is in a picture
COPULA = re.compile(r"\s+(?:is|are|that is|that are)\s*$|(?:正在|在|正)$", re.IGNORECASE)  # before a motion
BINDS = re.compile(r"[的有里上是]+")  # before what a Chinese place holds
COUNTS = {"two": 2, "2": 2, "两": 2, "二": 2, "three": 3, "3": 3, "三": 3, "four": 4, "4": 4, "四": 4}
SIDES = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|above|below|over|under|beneath|middle|cent(?:er|re)|corner)\b|[左右上下中角旁边间]",
    re.IGNORECASE,
)
IS_CHINESE = re.compile(f"[{HAN}]")

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something in the picture: its words, how many of it, the picture's words without it, and those of its motion."""

    subject: str
    count: int
    without: str
    motion: str | None


@dataclass(frozen=True, kw_only=True)
class Script:
    """A film's picture in words, the same with a place for each of two things, and its parts in their order."""

    still: str
    placed: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class ScriptReader:
    """Reads with the motions a model was taught, and the names it knows, if any.

    Each motion belongs to what is named before it, or else to the first. Without names that is whatever stands between
    two joints.
    """

    motions: Motions
    names: Names | None = None

    def read(self, prompt: str) -> Script:
        places, nouns = self._places_and_nouns(prompt)
        verbs = _spans(prompt, self._verbs, taken=[*places, *nouns])
        if self.names is None:
            nouns = [(max((j.end() for j in JOINT.finditer(prompt, 0, first)), default=0), first) for first, _ in verbs]
        moves: dict[Span, str] = {}
        for first, last in verbs:
            before = [noun for noun in nouns if noun[1] <= first] or nouns[:1]
            if before:
                moves.setdefault(before[-1], prompt[first:last])
        still, parts = _without_verbs(prompt, verbs), []
        if self.names is not None:
            still = _as_list(still, self._places_and_nouns(still)[1])
        for noun in nouns:
            subject = prompt[slice(*_with_adjectives(prompt, noun, [*places, *verbs, *nouns]))]
            subject = COPULA.sub("", subject).strip()
            without, count = _without(still, subject), _count(subject)
            parts.append(Part(subject=subject, count=count, without=without, motion=moves.get(noun)))
        return Script(still=still, placed=self._placed(still, parts), parts=tuple(parts))

    def _placed(self, still: str, parts: list[Part]) -> str:
        """Two things that only a joint stands between, each in its place, where none is said."""
        if self.names is None or [part.count for part in parts] != [1, 1]:
            return still
        if SIDES.search(self._nouns.sub("", self._places.sub("", still))):
            return still
        first, second = (part.subject for part in parts)
        listed = re.compile(f"{re.escape(first)}{JOINT.pattern}{re.escape(second)}", re.IGNORECASE)
        layout = choose_layout([self.motions.reach(part.motion) for part in parts])
        words = layout.words_zh if IS_CHINESE.search(still) else layout.words_en
        return listed.sub(lambda _: words.format(first, second), still, count=1)

    def _places_and_nouns(self, text: str) -> tuple[list[Span], list[Span]]:
        """Of nouns side by side, such as 一桶爆米花, the last one is meant."""
        places = _spans(text, self._places)
        nouns = _spans(text, self._nouns, taken=places)
        return places, [noun for noun in nouns if all(noun[1] != other[0] for other in nouns)]

    @cached_property
    def _verbs(self) -> re.Pattern[str]:
        return _any_of(word for motion in self.motions.motions for word in motion.phrases)

    @cached_property
    def _nouns(self) -> re.Pattern[str]:
        entries = () if self.names is None else self.names.objects
        return _any_of(name for e in entries for name in (*e.names_en, *e.plurals_en, *e.names_zh))

    @cached_property
    def _places(self) -> re.Pattern[str]:
        entries = () if self.names is None else self.names.backgrounds
        return _any_of(name for e in entries for name in (*e.where_en, *e.where_zh, e.name_en, e.name_zh))


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """The longest goes first; whole words where they have spaces between them."""
    different = sorted({word.lower() for word in words if word}, key=lambda word: (-len(word), word))
    said = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in different]
    return re.compile("|".join(said) or r"(?!)", re.IGNORECASE | re.ASCII)


def _spans(text: str, pattern: re.Pattern[str], taken: Iterable[Span] = ()) -> list[Span]:
    """Where a pattern is found and nothing else was."""
    taken = list(taken)
    found = (match.span() for match in pattern.finditer(text))
    return [(a, b) for a, b in found if all(b <= first or last <= a for first, last in taken)]


def _count(subject: str) -> int:
    first = subject.lower().split()[:1] or [""]
    return COUNTS.get(first[0], COUNTS.get(subject[:1], 1))


def _with_adjectives(text: str, noun: Span, others: Iterable[Span]) -> Span:
    """From the last joint, place, motion or noun before it."""
    edges = [joint.end() for joint in JOINT.finditer(text, 0, noun[0])]
    start = max([*edges, *(end for _, end in others if end <= noun[0])], default=0)
    if binding := BINDS.match(text, start, noun[0]):
        start = binding.end()
    return start, noun[1]


def _without_verbs(prompt: str, verbs: Iterable[Span]) -> str:
    """The picture's words."""
    said, at = "", 0
    for first, last in verbs:
        said, at = said + COPULA.sub("", prompt[at:first].rstrip()), last
    return " ".join((said + prompt[at:]).split()).strip(" ,，")


def _as_list(still: str, nouns: list[Span]) -> str:
    """Clauses that have lost their verbs, as a list: 一顶草帽和一副眼镜."""
    for (_, last), (first, _) in reversed(list(pairwise(nouns))):
        if comma := re.compile(r"\s*[,，]\s*").match(still, last, first):
            joint = "和" if IS_CHINESE.search(still) else " and "
            still = still[: comma.start()] + joint + still[comma.end() :]
    return still


def _without(still: str, subject: str) -> str:
    """The picture's words without a subject, and without the joint that bound it to the rest."""
    pieces = JOINT.split(still.replace(subject, "\0", 1))
    said, joint = "", ""
    for text, after in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        rest = text.replace("\0", "").strip()
        if rest:
            said += (joint if said and "\0" not in text else " " if said else "") + rest
        joint = after if rest or not joint else joint
    return said.strip(" ,，")
