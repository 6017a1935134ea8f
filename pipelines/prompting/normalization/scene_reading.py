"""Reading of a prompt: objects with their attributes, their relation, the background, and what must be absent."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dianjing.pipelines.conversation.captions import build_noun_phrase, compose_caption
from dianjing.pipelines.conversation.edits import ObjectSpec
from dianjing.pipelines.conversation.parsing.clauses import ObjectMention, parse_clause
from dianjing.pipelines.conversation.parsing.tokenizer import Token
from dianjing.pipelines.conversation.scene import MAX_INSTANCES, MAX_SCENE_OBJECTS
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.normalization.phrases import choose_other_colours, get_excluded_token
from dianjing.pipelines.prompting.normalization.word_lists import NEGATED_EN, NEGATED_ZH, NEGATION_END

# aliases of plain backgrounds that are colours of no object: "a grey cat" has no grey background
BACKGROUND_COLOURS = frozenset(["grey", "gray", "light blue", "pale blue", "灰色", "灰", "浅蓝色", "淡蓝色", "天蓝色"])
BACKGROUND_WORDS = frozenset({"background", "backdrop", "背景", "底色"})
CLAUSE_END = frozenset({",", "，", ".", "but", "但"})
UNKNOWN_WORD = "\ufffd"  # in place of a word that the model does not know
LIST_WORDS = frozenset({"and", "or", "nor", "和", "或", "跟", "与", "、"})
POSITION_RELATIONS = {("left", "right"): "left", ("right", "left"): "right"} | {
    ("top", "bottom"): "above",
    ("bottom", "top"): "below",
}


@dataclass(frozen=True, kw_only=True)
class PromptScene:
    """The content of a prompt.

    absent: English names of objects and backgrounds that it excludes. ignored_colours: those of objects that have only
    their own colours.
    """

    objects: tuple[ObjectSpec, ...]
    background: str | None
    relation: str | None
    absent: tuple[str, ...]
    ignored_colours: tuple[str, ...]

    def caption(self, vocabulary: ConceptVocabulary, *, language: str, motions: dict[str, str]) -> str:
        """Describe the scene as the model's training captions do. motions: phrases by the names of objects."""
        phrases = []
        for spec in self.objects:
            phrase = build_noun_phrase(spec, vocabulary, language=language, count=spec.count, size=spec.size)
            motion = motions.get(spec.name)
            phrases.append(
                phrase if motion is None else f"{phrase}在{motion}" if language == "zh" else f"{phrase} {motion}"
            )
        position = self.objects[0].position if len(self.objects) == 1 and self.objects[0].count == 1 else None
        return compose_caption(
            phrases,
            vocabulary,
            relation=None if motions else self.relation,
            position=None if position == "center" or motions else position,
            background=self.background,
            language=language,
        )


def read_scene(tokens: Sequence[Token], vocabulary: ConceptVocabulary) -> PromptScene:
    """Read the tokens of a prompt; two of an object whose plural has no number."""
    remaining, absent = _remove_negated([token for token in tokens if token.text.strip()], vocabulary)
    remaining, excluded = choose_other_colours(_remove_unknown_places(remaining), vocabulary)
    measure_words = {entry.measure_word_zh for entry in vocabulary.objects}
    remaining = [
        token
        for index, token in enumerate(remaining)
        if not _is_colour_of_nothing(remaining, index) and not _is_measure_word(remaining, index, measure_words)
    ]
    clause = parse_clause(_move_colours(_count_plurals(remaining, vocabulary)))
    mentions = _merge_repeated([mention for mention in clause.mentions if mention.name is not None])
    relation = clause.relation if len(mentions) == 2 and any(mention.is_anchor for mention in mentions) else None
    if relation is not None:
        mentions.sort(key=lambda mention: mention.is_anchor)
    elif len(mentions) == 2:
        relation = POSITION_RELATIONS.get((mentions[0].position or "", mentions[1].position or ""))
    elif len(mentions) == 1 and clause.position is not None:
        mentions[0] = replace(mentions[0], position=mentions[0].position or clause.position)
    background = clause.background
    if background is None and "background" in clause.senses and clause.colour is not None:
        background = f"{'light blue' if clause.colour == 'blue' else clause.colour} background"
    mentions = mentions[:MAX_SCENE_OBJECTS]
    objects = tuple(_make_spec(mention, vocabulary) for mention in mentions)
    ignored = [
        *excluded,
        *(m.colour for m, spec in zip(mentions, objects, strict=True) if m.colour and spec.colour is None),
    ]
    return PromptScene(
        objects=objects,
        background=background,
        relation=relation,
        absent=tuple(dict.fromkeys(absent)),
        ignored_colours=tuple(dict.fromkeys(ignored)),
    )


def _make_spec(mention: ObjectMention, vocabulary: ConceptVocabulary) -> ObjectSpec:
    spec = mention.to_object_spec()
    known = vocabulary.find_object(spec.name)
    colour = spec.colour if known is not None and known.is_colourable else None
    return replace(
        spec, count=min(spec.count, MAX_INSTANCES), colour=colour, size=spec.size if spec.count == 1 else None
    )


def _remove_unknown_places(tokens: Sequence[Token]) -> list[Token]:
    """Remove the sides of what is unknown: an apple on a table (桌子上面的苹果) is not at the top of the image."""
    result: list[Token] = []
    is_unknown = False
    for token in tokens:
        is_place = token.get_value("position") is not None and not token.text.isascii()
        if not (is_unknown and is_place):
            result.append(token)
        is_unknown = token.text == UNKNOWN_WORD or (is_unknown and token.text == "的")
    return result


def _remove_negated(tokens: list[Token], vocabulary: ConceptVocabulary) -> tuple[list[Token], list[str]]:
    """Remove each negation with what it excludes: the objects in a row after it, or a background right after it.

    Colors alone ("a car without red") are excluded from an object, see `choose_other_colours`.
    """
    remaining: list[Token] = []
    absent: list[str] = []
    index = 0
    while index < len(tokens):
        if tokens[index].text not in (NEGATED_EN, NEGATED_ZH):
            remaining.append(tokens[index])
            index += 1
            continue
        first = index + 1
        index, names = _read_negated(tokens, first)
        absent += names
        negated = tokens[first:index]
        if not any(names) and not any(t.text == UNKNOWN_WORD or t.text in BACKGROUND_WORDS for t in negated):
            colours = [colour for t in negated if (colour := t.get_value("colour")) is not None]
            remaining += [get_excluded_token(colour, vocabulary) for colour in colours]
    return remaining, absent


def _read_negated(tokens: Sequence[Token], index: int) -> tuple[int, list[str]]:
    """Return where a negation that excludes what comes at `index` ends, and the names that it excludes."""
    names: list[str] = []
    is_complete = False  # something is excluded, and no "or" follows it yet
    while index < len(tokens):
        token = tokens[index]
        name = token.get_value("object") or token.get_value("background")
        is_unknown = token.text == UNKNOWN_WORD or token.text in BACKGROUND_WORDS
        if token.text in NEGATION_END and (is_complete or token.text in CLAUSE_END):
            break
        if is_complete and token.text not in LIST_WORDS:
            break
        if name is not None:
            names.append(name)
        is_complete = name is not None or is_unknown
        index += 1
    return index, names


def _is_colour_of_nothing(tokens: list[Token], index: int) -> bool:
    neighbours = tokens[max(0, index - 2) : index] + tokens[index + 1 : index + 2]
    return tokens[index].text in BACKGROUND_COLOURS and not any(token.text in BACKGROUND_WORDS for token in neighbours)


def _is_measure_word(tokens: Sequence[Token], index: int, measure_words: Collection[str]) -> bool:
    """Return True for a measure word after a number; some also name an object (一桶爆米花) or a number (一双袜子)."""
    has_number = index > 0 and tokens[index - 1].get_value("number") is not None
    return has_number and index + 1 < len(tokens) and tokens[index].text in measure_words


def _move_colours(tokens: Sequence[Token]) -> list[Token]:
    """Move a colour that no object follows to before the object that it follows: "a car, red"."""
    result: list[Token] = []
    for index, token in enumerate(tokens):
        if token.get_value("colour") is not None:
            following = [t for t in tokens[index + 1 :] if t.senses and t.get_value("colour") is None]
            is_followed = bool(following) and (
                following[0].get_value("object") is not None or following[0].senses & {"big", "small", "background"}
            )
            objects = [i for i, t in enumerate(result) if t.get_value("object") is not None]
            if not is_followed and objects:
                result.insert(objects[-1], token)
                continue
        result.append(token)
    return result


def _count_plurals(tokens: Sequence[Token], vocabulary: ConceptVocabulary) -> list[Token]:
    """Put "two" before a plural without a number."""
    two = Token(text="two", senses=frozenset({"number 2"}))
    result: list[Token] = []
    is_counted = False
    for token in tokens:
        name = token.get_value("object")
        if token.get_value("number") is not None:
            is_counted = True
        elif name is not None:
            known = vocabulary.find_object(name)
            is_plural = known is not None and token.text in known.plurals_en and token.text not in known.names_en
            if is_plural and not is_counted:
                result.append(two)
            is_counted = False
        result.append(token)
    return result


def _merge_repeated(mentions: Sequence[ObjectMention]) -> list[ObjectMention]:
    """Merge mentions of one object, unless a later one has a color or a number of its own."""
    merged: list[ObjectMention] = []
    for mention in mentions:
        first = next((each for each in merged if each.name == mention.name), None)
        if first is None or (
            mention.colour is not None and first.colour is not None and first.colour != mention.colour
        ):
            merged.append(mention)
            continue
        values = {
            name: getattr(first, name) or getattr(mention, name) for name in ("count", "colour", "size", "position")
        }
        merged[merged.index(first)] = replace(first, **values)
    return merged
