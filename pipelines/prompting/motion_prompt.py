"""Parser of video prompts: the static image that a prompt describes, its subjects, and which of them moves how.

"a cat jumping and a dog on the grass" is the image "a cat and a dog on the grass" whose subject "a cat" is jumping.
Where a prompt leaves open how two subjects stand to each other, each is given a position with room to move: a model
that has to choose generates a mixture of several.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.errors import LocalizedName
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.motions import MotionConcept, MotionVocabulary
from dianjing.pipelines.prompting.placement import choose_placement
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

CONJUNCTION = re.compile(r"(\s*[,，、;；。.]\s*|\s+and\s+|和|还有|与)", re.IGNORECASE)  # between subjects
COPULA = re.compile(r"\s+(?:is|are|that is|that are)\s*$|(?:正在|在|正)$", re.IGNORECASE)  # before a motion
LINKING_PARTICLE = re.compile(r"[的有里上是]+")  # between a Chinese location and what is there
NUMERALS = {"two": 2, "2": 2, "两": 2, "二": 2, "three": 3, "3": 3, "三": 3, "four": 4, "4": 4, "四": 4}
NUMERAL = re.compile(r"\b(?:two|three|four)\b|(?<!\d)[234](?!\d)|[两二三四]", re.IGNORECASE | re.ASCII)
POSITION_WORD = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|above|below|over|under|beneath|middle|cent(?:er|re)|corner)\b|[左右上下中角旁边间]",
    re.IGNORECASE,
)
HAN_CHARACTER = re.compile(f"[{HAN_RANGES}]")
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject of a prompt: its phrase, its number, the static prompt without it, and the phrase of its motion."""

    phrase: str
    count: int
    prompt_without: str
    motion: str | None


@dataclass(frozen=True, kw_only=True)
class MotionPrompt:
    """A parsed video prompt: its static image, the same with positions for two subjects, and the subjects in order."""

    static_prompt: str
    placed_prompt: str
    subjects: tuple[Subject, ...] = ()

    @property
    def has_motion(self) -> bool:
        """True if any subject moves."""
        return any(subject.motion is not None for subject in self.subjects)


@dataclass(frozen=True)
class MotionPromptParser:
    """Parser over the motions that a model was trained on and the concepts that it knows, if it has a list of them.

    Each motion belongs to the noun before it, or else to the first. Without concepts, a noun is the text between two
    conjunctions.
    """

    motion_vocabulary: MotionVocabulary
    concept_vocabulary: ConceptVocabulary | None = None

    def parse(self, prompt: str) -> MotionPrompt:
        """Split a prompt into its static image and its subjects with their motions."""
        backgrounds, nouns = self._find_backgrounds_and_objects(prompt)
        verbs = _find_spans(prompt, self._motion_pattern, occupied=[*backgrounds, *nouns])
        if self.concept_vocabulary is None:
            nouns = [
                (max((match.end() for match in CONJUNCTION.finditer(prompt, 0, start)), default=0), start)
                for start, _ in verbs
            ]
        motions: dict[Span, str] = {}
        for start, end in verbs:
            before = [noun for noun in nouns if noun[1] <= start] or nouns[:1]
            if before:
                motions.setdefault(before[-1], prompt[start:end])
        static_prompt, subjects = _remove_motions(prompt, verbs), []
        if self.concept_vocabulary is not None:
            static_prompt = _move_location(static_prompt, *self._find_backgrounds_and_objects(static_prompt))
            static_prompt = _join_clauses(static_prompt, self._find_backgrounds_and_objects(static_prompt)[1])
        for noun in nouns:
            phrase = prompt[slice(*_include_adjectives(prompt, noun, [*backgrounds, *verbs, *nouns]))]
            phrase = COPULA.sub("", phrase).strip()
            without, count = _remove_phrase(static_prompt, phrase), _parse_count(self._object_pattern.sub("", phrase))
            subjects.append(Subject(phrase=phrase, count=count, prompt_without=without, motion=motions.get(noun)))
        placed_prompt = self._add_positions(static_prompt, subjects)
        return MotionPrompt(static_prompt=static_prompt, placed_prompt=placed_prompt, subjects=tuple(subjects))

    def _add_positions(self, static_prompt: str, subjects: list[Subject]) -> str:
        """Give two single subjects that a conjunction joins a position each, unless the prompt has positions."""
        if self.concept_vocabulary is None or [subject.count for subject in subjects] != [1, 1]:
            return static_prompt
        if POSITION_WORD.search(self._object_pattern.sub("", self._background_pattern.sub("", static_prompt))):
            return static_prompt
        first, second = (subject.phrase for subject in subjects)
        listed = re.compile(f"{re.escape(first)}{CONJUNCTION.pattern}{re.escape(second)}", re.IGNORECASE)
        placement = choose_placement([self.motion_vocabulary.get_extent(subject.motion) for subject in subjects])
        template = placement.template_zh if HAN_CHARACTER.search(static_prompt) else placement.template_en
        return listed.sub(lambda _: template.format(first, second), static_prompt, count=1)

    def _find_backgrounds_and_objects(self, text: str) -> tuple[list[Span], list[Span]]:
        """Find the spans of backgrounds and objects; of adjacent nouns, as in 一桶爆米花, the last one counts."""
        backgrounds = _find_spans(text, self._background_pattern)
        nouns = _find_spans(text, self._object_pattern, occupied=backgrounds)
        return backgrounds, [noun for noun in nouns if all(noun[1] != other[0] for other in nouns)]

    @cached_property
    def _motion_pattern(self) -> re.Pattern[str]:
        return _compile_alternatives(phrase for motion in self.motion_vocabulary.motions for phrase in motion.phrases)

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


def parse_moving_subjects(parser: MotionPromptParser, prompt: str) -> MotionPrompt:
    """Parse the prompt for an image in which something moves.

    Raises: DianjingError for a model without named motions, and for a prompt that names none of them.
    """
    motion_prompt = parser.parse(prompt)
    if not motion_prompt.has_motion:
        raise DianjingError("prompt_without_motion", known=list_motion_names(parser))
    return motion_prompt


def list_motion_names(parser: MotionPromptParser) -> list[LocalizedName]:
    """List the motions that a prompt may name. Raises: DianjingError for a model without named motions."""
    if not parser.motion_vocabulary.motions:
        raise DianjingError("motions_without_names")
    return [_get_name(motion) for motion in parser.motion_vocabulary.motions]


def _get_name(motion: MotionConcept) -> LocalizedName:
    """The canonical phrase of a motion in each language."""
    names = {phrase.isascii(): phrase for phrase in reversed(motion.phrases)}
    return LocalizedName(en=names.get(True, motion.phrases[0]), zh=names.get(False, motion.phrases[0]))


def _compile_alternatives(phrases: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern of all phrases, the longest first; phrases in ASCII match whole words."""
    unique = sorted({phrase.lower() for phrase in phrases if phrase}, key=lambda phrase: (-len(phrase), phrase))
    alternatives = [rf"\b{re.escape(phrase)}\b" if phrase.isascii() else re.escape(phrase) for phrase in unique]
    return re.compile("|".join(alternatives) or r"(?!)", re.IGNORECASE | re.ASCII)


def _find_spans(text: str, pattern: re.Pattern[str], occupied: Iterable[Span] = ()) -> list[Span]:
    """Find the matches of a pattern that overlap no occupied span."""
    occupied = list(occupied)
    matches = (match.span() for match in pattern.finditer(text))
    return [(a, b) for a, b in matches if all(b <= start or end <= a for start, end in occupied)]


def _parse_count(phrase: str) -> int:
    """Parse the numeral in front of a noun, after words such as "please draw"; 1 without one."""
    numerals = [match[0].lower() for match in NUMERAL.finditer(phrase)]
    return NUMERALS[numerals[-1]] if numerals else 1


def _include_adjectives(text: str, noun: Span, others: Iterable[Span]) -> Span:
    """Extend the span of a noun back to the conjunction, background, motion or noun before it."""
    edges = [match.end() for match in CONJUNCTION.finditer(text, 0, noun[0])]
    start = max([*edges, *(end for _, end in others if end <= noun[0])], default=0)
    if particle := LINKING_PARTICLE.match(text, start, noun[0]):
        start = particle.end()
    return start, noun[1]


def _remove_motions(prompt: str, motion_spans: Iterable[Span]) -> str:
    """Cut the phrases of motions, and the copula before each, out of a prompt."""
    static_prompt, position = "", 0
    for start, end in motion_spans:
        static_prompt, position = static_prompt + COPULA.sub("", prompt[position:start].rstrip()), end
    return " ".join((static_prompt + prompt[position:]).split()).strip(" ,，")


def _move_location(static_prompt: str, backgrounds: list[Span], nouns: list[Span]) -> str:
    """Move the one location of a prompt out of its list of subjects: that of the first subject is that of all.

    In English it goes to the end, in Chinese to the front.
    """
    if len(backgrounds) != 1 or not CONJUNCTION.match(static_prompt, backgrounds[0][1]):
        return static_prompt
    ((start, end),) = backgrounds
    before, location, after = static_prompt[:start], static_prompt[start:end], static_prompt[end:]
    is_after_noun = any(static_prompt[noun[1] : start].strip() in ("", "在") for noun in nouns if noun[1] <= start)
    if not is_after_noun or not any(noun[0] >= end for noun in nouns):
        return static_prompt
    subjects = before.rstrip().removesuffix("在") + after
    return f"{location}，{subjects}" if HAN_CHARACTER.search(static_prompt) else f"{subjects} {location}"


def _join_clauses(static_prompt: str, nouns: list[Span]) -> str:
    """Join clauses that have lost their verbs to a list, such as 一顶草帽和一副眼镜."""
    for (_, end), (start, _) in reversed(list(pairwise(nouns))):
        if comma := re.compile(r"\s*[,，]\s*").match(static_prompt, end, start):
            conjunction = "和" if HAN_CHARACTER.search(static_prompt) else " and "
            static_prompt = static_prompt[: comma.start()] + conjunction + static_prompt[comma.end() :]
    return static_prompt


def _remove_phrase(static_prompt: str, phrase: str) -> str:
    """Cut a subject, and the conjunction that joins it to the rest, out of a static prompt."""
    pieces = CONJUNCTION.split(static_prompt.replace(phrase, "\0", 1))
    result, conjunction = "", ""
    for text, after in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        rest = text.replace("\0", "").strip()
        if rest:
            result += (conjunction if result and "\0" not in text else " " if result else "") + rest
        conjunction = after if rest or not conjunction else conjunction
    return result.strip(" ,，")
