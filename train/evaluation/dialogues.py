"""Scripted talks of the sticker world: what a person might say turn by turn, and what the pictures must then show."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dianjing.train.evaluation.paraphrases import (
    EDIT_PARAPHRASES_EN,
    EDIT_PARAPHRASES_ZH,
    SIDE_PHRASES_EN,
    SIDE_PHRASES_ZH,
)
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.captions import (
    CELLS_EN,
    CELLS_ZH,
    NUMBERS_EN,
    NUMBERS_ZH,
    make_noun_phrase_en,
    make_noun_phrase_zh,
    pluralize,
)
from dianjing.train.stickers.scenes import RELATIONS, NounMention
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes
from dianjing.train.stickers.world import list_countable_classes

MAX_CLASSES, MAX_OBJECTS = 3, 4
EDIT_WEIGHTS = {
    "background": 3,
    "add": 4,
    "remove": 2,
    "replace": 3,
    "move": 2,
    "bigger": 1.5,
    "smaller": 1.5,
    "count": 2,
    "recolour": 2,
    "another": 1,
    "undo": 1.5,
}


@dataclass(frozen=True, kw_only=True)
class ExpectedObjects:
    """One kind of object that a picture must show."""

    class_id: int
    count: int = 1
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class DialogueTurn:
    """One turn: what is said, and what must then be seen.

    kind: a key of EDITS, or "draw". shown: all objects; background: None where none was asked for. subject: the index
    in `shown` of what the turn is about, None for the background, all of it or what is gone; gone: what it was before.
    mentioned: objects that need not be as they were. place: a cell of 3 x 3; side: of the object `beside`.
    """

    edit_type: str
    text: str
    expected: tuple[ExpectedObjects, ...]
    background: int | None
    target_index: int | None = None
    removed_class_id: int | None = None
    mentioned_class_ids: frozenset[int] = frozenset()
    cell: int | None = None
    side: str | None = None
    anchor_index: int | None = None


Dialogue = tuple[DialogueTurn, ...]


class DialogueGenerator:
    """Makes up talks in one language."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self.rng, self.language = rng, language
        self.paraphrases = EDIT_PARAPHRASES_ZH if language == "zh" else EDIT_PARAPHRASES_EN
        self.countable_class_ids = list_countable_classes()

    def generate(self) -> Dialogue:
        """3 to 6 lines."""
        lines = [self._make_first_turn()]
        length = self.rng.randint(3, 6)
        while len(lines) < length:
            kind = self.rng.choices(list(EDIT_WEIGHTS), list(EDIT_WEIGHTS.values()))[0]
            line = getattr(self, f"_{kind}")(lines)
            if line is not None and not (kind == "undo" and lines[-1].edit_type == "undo"):
                lines.append(line)
        return tuple(lines)

    def _sample_object(self, excluded: Sequence[ExpectedObjects], *, has_colour: bool = False) -> ExpectedObjects:
        """An object that is not there yet, one that can be counted."""
        names = {name for each in excluded for name in load_sprite_classes()[each.class_id].names_en[0].split()}
        while True:
            thing = self.rng.choice(self.countable_class_ids)
            if thing in {each.class_id for each in excluded} or names & set(
                load_sprite_classes()[thing].names_en[0].split()
            ):
                continue
            if has_colour and not load_sprite_classes()[thing].is_colourable:
                continue
            coloured = load_sprite_classes()[thing].is_colourable and (has_colour or self.rng.random() < 0.4)
            return ExpectedObjects(class_id=thing, colour=self.rng.randrange(len(COLOURS)) if coloured else None)

    def _make_noun_phrase(self, expected: ExpectedObjects) -> str:
        """ "a red balloon"."""
        mention = NounMention(class_id=expected.class_id, count=expected.count, colour=expected.colour)
        return (make_noun_phrase_zh if self.language == "zh" else make_noun_phrase_en)(mention, self.rng)

    def _choose_noun(self, expected: ExpectedObjects) -> str:
        thing = load_sprite_classes()[expected.class_id]
        if self.language == "zh":
            return self.rng.choice(thing.names_zh)
        return pluralize(thing.names_en[0]) if expected.count > 1 else thing.names_en[0]

    def _choose_location(self, background: int) -> str:
        entry = BACKGROUNDS[background]
        return self.rng.choice(entry.location_phrases_zh if self.language == "zh" else entry.location_phrases_en)

    def _paraphrase(self, key: str, **values: str) -> str:
        return self.rng.choice(self.paraphrases[key]).format(**values)

    def _get_side_phrase(self, side: str) -> str:
        return (SIDE_PHRASES_ZH if self.language == "zh" else SIDE_PHRASES_EN)[side]

    def _choose_cell_phrase(self, cell: int) -> str:
        return self.rng.choice((CELLS_ZH if self.language == "zh" else CELLS_EN)[cell])

    def _make_reference(self, turns: Sequence[DialogueTurn], index: int) -> str:
        """An object by name, or "it" where the line before was about it."""
        last, shown = turns[-1], turns[-1].expected
        is_clear = last.edit_type != "undo" and last.target_index == index and shown[index].count == 1
        if self.language == "zh" and (is_clear or len(shown) == 1) and self.rng.random() < 0.3:
            return "它"
        return self._choose_noun(shown[index])

    def _pick_background(self, current: int | None) -> int:
        return self.rng.choice([index for index in range(len(BACKGROUNDS)) if index != current])

    def _make_first_turn(self) -> DialogueTurn:
        first = self._sample_object(())
        background = self._pick_background(None)
        where, zh = self._choose_location(background), self.language == "zh"
        form = self.rng.choice(("one", "one", "pair", "count"))
        if form == "count":
            first = replace(first, count=2)
        phrase = self._make_noun_phrase(first)
        if form != "pair":
            text = self.rng.choice(
                (f"给我画{phrase}，要在{where}", f"来张图吧，{where}要有{phrase}")
                if zh
                else (f"could you paint {phrase} {where}?", f"show me {phrase} {where}")
            )
            return DialogueTurn(edit_type="draw", text=text, expected=(first,), background=background, target_index=0)
        second, side = self._sample_object((first,)), self.rng.choice(RELATIONS)
        other = self._make_noun_phrase(second)
        text = (
            f"来个{where}的画面，{phrase}要在{other}的{self._get_side_phrase(side)}"
            if zh
            else f"i want {phrase} {self._get_side_phrase(side)} {other}, both {where}"
        )
        return DialogueTurn(
            edit_type="draw",
            text=text,
            expected=(first, second),
            background=background,
            target_index=0,
            side=side,
            anchor_index=1,
        )

    def _background(self, lines: Sequence[DialogueTurn]) -> DialogueTurn:
        now, background = lines[-1], self._pick_background(lines[-1].background)
        entry = BACKGROUNDS[background]
        name = entry.name_zh if self.language == "zh" else entry.name_en
        text = self._paraphrase("background", where=self._choose_location(background), background=name)
        return DialogueTurn(edit_type="background", text=text, expected=now.expected, background=background)

    def _add(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        now = lines[-1]
        if len(now.expected) == MAX_CLASSES or sum(each.count for each in now.expected) >= MAX_OBJECTS - 1:
            return None
        new = self._sample_object(now.expected)
        shown = (*now.expected, new)
        line = DialogueTurn(
            edit_type="add",
            text="",
            expected=shown,
            background=now.background,
            target_index=len(now.expected),
            mentioned_class_ids=frozenset({new.class_id}),
        )
        alone = [index for index, each in enumerate(now.expected) if each.count == 1]
        if alone and self.rng.random() < 0.4:
            beside, side = self.rng.choice(alone), self.rng.choice(RELATIONS)
            words = {
                "a": self._make_noun_phrase(new),
                "y": self._choose_noun(now.expected[beside]),
                "side": self._get_side_phrase(side),
            }
            return replace(line, text=self._paraphrase("add beside", **words), side=side, anchor_index=beside)
        return replace(line, text=self._paraphrase("add", a=self._make_noun_phrase(new)))

    def _remove(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        now = lines[-1]
        if len(now.expected) < 2:
            return None
        index = self.rng.randrange(len(now.expected))
        shown, gone = (*now.expected[:index], *now.expected[index + 1 :]), now.expected[index].class_id
        text = self._paraphrase("remove", x=self._make_reference(lines, index))
        return DialogueTurn(
            edit_type="remove",
            text=text,
            expected=shown,
            background=now.background,
            removed_class_id=gone,
            mentioned_class_ids=frozenset({gone}),
        )

    def _make_changed_turn(
        self, turns: Sequence[DialogueTurn], edit_type: str, index: int, text: str, **changes: Any
    ) -> DialogueTurn:
        now = turns[-1]
        changed = replace(now.expected[index], **changes)
        shown = (*now.expected[:index], changed, *now.expected[index + 1 :])
        mentioned = frozenset({now.expected[index].class_id, changed.class_id})
        return DialogueTurn(
            edit_type=edit_type,
            text=text,
            expected=shown,
            background=now.background,
            target_index=index,
            mentioned_class_ids=mentioned,
        )

    def _choose_single(self, turns: Sequence[DialogueTurn]) -> int | None:
        """The index of a kind of which there is one."""
        alone = [index for index, each in enumerate(turns[-1].expected) if each.count == 1]
        return self.rng.choice(alone) if alone else None

    def _replace(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        index = self._choose_single(lines)
        if index is None:
            return None
        new, old = self._sample_object(lines[-1].expected), lines[-1].expected[index]
        text = self._paraphrase("replace", x=self._make_reference(lines, index), a=self._make_noun_phrase(new))
        return replace(
            self._make_changed_turn(lines, "replace", index, text, class_id=new.class_id, colour=new.colour),
            removed_class_id=old.class_id,
        )

    def _move(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        index, shown = self._choose_single(lines), lines[-1].expected
        if index is None or sum(each.count for each in shown) > 2:
            return None
        others = [i for i, each in enumerate(shown) if i != index and each.count == 1]
        name = self._make_reference(lines, index)
        if others and self.rng.random() < 0.5:
            side, beside = self.rng.choice(RELATIONS), others[0]
            text = self._paraphrase(
                "move beside", x=name, y=self._choose_noun(shown[beside]), side=self._get_side_phrase(side)
            )
            return replace(self._make_changed_turn(lines, "move", index, text), side=side, anchor_index=beside)
        place = self.rng.choice([cell for cell in range(9) if cell != 4])
        text = self._paraphrase("move", x=name, place=self._choose_cell_phrase(place))
        return replace(self._make_changed_turn(lines, "move", index, text), cell=place)

    def _resize(self, lines: Sequence[DialogueTurn], edit_type: str) -> DialogueTurn | None:
        index = self._choose_single(lines)
        if index is None or any(line.edit_type in ("bigger", "smaller") for line in lines):
            return None
        return self._make_changed_turn(
            lines, edit_type, index, self._paraphrase(edit_type, x=self._make_reference(lines, index))
        )

    def _bigger(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        return self._resize(lines, "bigger")

    def _smaller(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        return self._resize(lines, "smaller")

    def _count(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        shown = lines[-1].expected
        index = self.rng.randrange(len(shown))
        others = sum(each.count for each in shown) - shown[index].count
        counts = [n for n in range(2, MAX_OBJECTS + 1 - others) if n != shown[index].count]
        if not counts:
            return None
        count, thing = self.rng.choice(counts), load_sprite_classes()[shown[index].class_id]
        if self.language == "zh":
            words = {"n": NUMBERS_ZH[count] + thing.measure_word_zh + self.rng.choice(thing.names_zh)}
        else:
            words = {"n": NUMBERS_EN[count], "xs": pluralize(thing.names_en[0])}
        return self._make_changed_turn(lines, "count", index, self._paraphrase("count", **words), count=count)

    def _recolour(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        shown = lines[-1].expected
        able = [
            i for i, each in enumerate(shown) if load_sprite_classes()[each.class_id].is_colourable and each.count == 1
        ]
        if not able:
            return None
        index = self.rng.choice(able)
        colour = self.rng.choice([c for c in range(len(COLOURS)) if c != shown[index].colour])
        said = COLOURS[colour].name_zh if self.language == "zh" else COLOURS[colour].name_en
        text = self._paraphrase("recolour", x=self._make_reference(lines, index), c=said)
        return self._make_changed_turn(lines, "recolour", index, text, colour=colour)

    def _another(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        """One more of what the line before was about."""
        now = lines[-1]
        if (
            now.target_index is None
            or now.edit_type == "undo"
            or sum(each.count for each in now.expected) >= MAX_OBJECTS
        ):
            return None
        subject = now.expected[now.target_index]
        name = self._choose_noun(replace(subject, count=1))
        text = self._paraphrase("another", x=name, m=load_sprite_classes()[subject.class_id].measure_word_zh)
        line = self._make_changed_turn(lines, "another", now.target_index, text, count=subject.count + 1)
        return replace(line, mentioned_class_ids=frozenset())

    def _undo(self, lines: Sequence[DialogueTurn]) -> DialogueTurn | None:
        if len(lines) < 2:
            return None
        before = lines[-2]
        everything = frozenset(each.class_id for line in lines for each in line.expected)
        return DialogueTurn(
            edit_type="undo",
            text=self._paraphrase("undo"),
            expected=before.expected,
            background=before.background,
            mentioned_class_ids=everything,
        )


def generate_dialogues(count: int, *, seed: int) -> list[tuple[str, Dialogue]]:
    """Talks with their languages, Chinese and English in turn."""
    languages = [("zh", "en")[index % 2] for index in range(count)]
    return [
        (language, DialogueGenerator(random.Random((seed << 32) | index), language).generate())
        for index, language in enumerate(languages)
    ]
