"""Scripted dialogues about the sticker world: requests turn by turn, and what the image must show after each."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dianjing.train.evaluation.dialogue_phrases import ExpectedObjects, PhraseSampler
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.scenes import CENTER_CELL, RELATIONS
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes
from dianjing.train.stickers.world import list_countable_classes

MAX_CLASSES, MAX_OBJECTS = 3, 4
MIN_TURNS, MAX_TURNS = 3, 6
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
class DialogueTurn:
    """One turn: the text of the user, and what the image must show afterwards.

    edit_type: a key of EDIT_WEIGHTS; first "new_scene". expected: all objects. background: None if it was not
    requested. target_index: the index in `expected` of the objects that the turn is about; None for the background,
    for everything, or for removed objects. removed_class_id: a class that must be gone. mentioned_class_ids: classes
    that may differ from the image before. cell: of the 3 x 3 grid. side: of the object at `anchor_index`.
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
    """Generates random dialogues in one language, "zh" or "en"."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self.rng, self.phrases = rng, PhraseSampler(rng, language)
        self.countable_class_ids = list_countable_classes()
        self._turn_makers: dict[str, Callable[[Sequence[DialogueTurn]], DialogueTurn | None]] = {
            "background": self._make_background_turn,
            "add": self._make_add_turn,
            "remove": self._make_remove_turn,
            "replace": self._make_replace_turn,
            "move": self._make_move_turn,
            "bigger": lambda turns: self._make_resize_turn(turns, "bigger"),
            "smaller": lambda turns: self._make_resize_turn(turns, "smaller"),
            "count": self._make_count_turn,
            "recolour": self._make_recolour_turn,
            "another": self._make_another_turn,
            "undo": self._make_undo_turn,
        }

    def generate(self) -> Dialogue:
        """Generate a dialogue of MIN_TURNS to MAX_TURNS turns; edits that the image leaves no room for are skipped."""
        turns = [self._make_first_turn()]
        length = self.rng.randint(MIN_TURNS, MAX_TURNS)
        while len(turns) < length:
            edit_type = self.rng.choices(list(EDIT_WEIGHTS), list(EDIT_WEIGHTS.values()))[0]
            turn = self._turn_makers[edit_type](turns)
            if turn is not None and not (edit_type == "undo" and turns[-1].edit_type == "undo"):
                turns.append(turn)
        return tuple(turns)

    def _sample_object(self, excluded: Sequence[ExpectedObjects]) -> ExpectedObjects:
        """Sample a countable object that shares no word of its name with those that are excluded."""
        excluded_ids = {each.class_id for each in excluded}
        excluded_words = {word for class_id in excluded_ids for word in _get_name_words(class_id)}
        while True:
            class_id = self.rng.choice(self.countable_class_ids)
            if class_id in excluded_ids or excluded_words & _get_name_words(class_id):
                continue
            is_coloured = load_sprite_classes()[class_id].is_colourable and self.rng.random() < 0.4
            colour = self.rng.randrange(len(COLOURS)) if is_coloured else None
            return ExpectedObjects(class_id=class_id, colour=colour)

    def _sample_background(self, current: int | None) -> int:
        return self.rng.choice([index for index in range(len(BACKGROUNDS)) if index != current])

    def _choose_single(self, turns: Sequence[DialogueTurn]) -> int | None:
        """Choose an object that is the only one of its class; None if there is none."""
        singles = [index for index, each in enumerate(turns[-1].expected) if each.count == 1]
        return self.rng.choice(singles) if singles else None

    def _make_reference(self, turns: Sequence[DialogueTurn], index: int) -> str:
        last = turns[-1]
        is_antecedent = last.edit_type != "undo" and last.target_index == index
        return self.phrases.make_reference(last.expected, index, is_antecedent=is_antecedent)

    def _make_first_turn(self) -> DialogueTurn:
        first = self._sample_object(())
        background = self._sample_background(None)
        location = self.phrases.choose_location(background)
        form = self.rng.choice(("one", "one", "pair", "count"))
        if form == "count":
            first = replace(first, count=2)
        phrase = self.phrases.make_noun_phrase(first)
        if form != "pair":
            text = self.phrases.make_first_request(phrase, location)
            return DialogueTurn(
                edit_type="new_scene", text=text, expected=(first,), background=background, target_index=0
            )
        second, side = self._sample_object((first,)), self.rng.choice(RELATIONS)
        other = self.phrases.make_noun_phrase(second)
        return DialogueTurn(
            edit_type="new_scene",
            text=self.phrases.make_first_pair_request(phrase, side, other, location),
            expected=(first, second),
            background=background,
            target_index=0,
            side=side,
            anchor_index=1,
        )

    def _make_background_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn:
        background = self._sample_background(turns[-1].background)
        name = self.phrases.get_background_name(background)
        location = self.phrases.choose_location(background)
        text = self.phrases.paraphrase("background", where=location, background=name)
        return DialogueTurn(edit_type="background", text=text, expected=turns[-1].expected, background=background)

    def _make_add_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        objects = turns[-1].expected
        if len(objects) == MAX_CLASSES or sum(each.count for each in objects) >= MAX_OBJECTS - 1:
            return None
        new = self._sample_object(objects)
        turn = DialogueTurn(
            edit_type="add",
            text="",
            expected=(*objects, new),
            background=turns[-1].background,
            target_index=len(objects),
            mentioned_class_ids=frozenset({new.class_id}),
        )
        anchors = [index for index, each in enumerate(objects) if each.count == 1]
        if anchors and self.rng.random() < 0.4:
            anchor_index, side = self.rng.choice(anchors), self.rng.choice(RELATIONS)
            fields = {
                "a": self.phrases.make_noun_phrase(new),
                "y": self.phrases.choose_noun(objects[anchor_index]),
                "side": self.phrases.get_side_phrase(side),
            }
            text = self.phrases.paraphrase("add beside", **fields)
            return replace(turn, text=text, side=side, anchor_index=anchor_index)
        return replace(turn, text=self.phrases.paraphrase("add", a=self.phrases.make_noun_phrase(new)))

    def _make_remove_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        objects = turns[-1].expected
        if len(objects) < 2:
            return None
        index = self.rng.randrange(len(objects))
        removed_class_id = objects[index].class_id
        return DialogueTurn(
            edit_type="remove",
            text=self.phrases.paraphrase("remove", x=self._make_reference(turns, index)),
            expected=(*objects[:index], *objects[index + 1 :]),
            background=turns[-1].background,
            removed_class_id=removed_class_id,
            mentioned_class_ids=frozenset({removed_class_id}),
        )

    def _make_changed_turn(
        self, turns: Sequence[DialogueTurn], edit_type: str, index: int, text: str, **changes: Any
    ) -> DialogueTurn:
        """Make a turn after which one kind of object has other attributes."""
        objects = turns[-1].expected
        changed = replace(objects[index], **changes)
        return DialogueTurn(
            edit_type=edit_type,
            text=text,
            expected=(*objects[:index], changed, *objects[index + 1 :]),
            background=turns[-1].background,
            target_index=index,
            mentioned_class_ids=frozenset({objects[index].class_id, changed.class_id}),
        )

    def _make_replace_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        index = self._choose_single(turns)
        if index is None:
            return None
        new, old = self._sample_object(turns[-1].expected), turns[-1].expected[index]
        fields = {"x": self._make_reference(turns, index), "a": self.phrases.make_noun_phrase(new)}
        text = self.phrases.paraphrase("replace", **fields)
        turn = self._make_changed_turn(turns, "replace", index, text, class_id=new.class_id, colour=new.colour)
        return replace(turn, removed_class_id=old.class_id)

    def _make_move_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        index, objects = self._choose_single(turns), turns[-1].expected
        if index is None or sum(each.count for each in objects) > 2:
            return None
        anchors = [i for i, each in enumerate(objects) if i != index and each.count == 1]
        reference = self._make_reference(turns, index)
        if anchors and self.rng.random() < 0.5:
            side, anchor_index = self.rng.choice(RELATIONS), anchors[0]
            anchor, side_phrase = self.phrases.choose_noun(objects[anchor_index]), self.phrases.get_side_phrase(side)
            text = self.phrases.paraphrase("move beside", x=reference, y=anchor, side=side_phrase)
            turn = self._make_changed_turn(turns, "move", index, text)
            return replace(turn, side=side, anchor_index=anchor_index)
        cell = self.rng.choice([cell for cell in range(9) if cell != CENTER_CELL])
        text = self.phrases.paraphrase("move", x=reference, place=self.phrases.choose_cell_phrase(cell))
        return replace(self._make_changed_turn(turns, "move", index, text), cell=cell)

    def _make_resize_turn(self, turns: Sequence[DialogueTurn], edit_type: str) -> DialogueTurn | None:
        index = self._choose_single(turns)
        if index is None or any(turn.edit_type in ("bigger", "smaller") for turn in turns):
            return None
        text = self.phrases.paraphrase(edit_type, x=self._make_reference(turns, index))
        return self._make_changed_turn(turns, edit_type, index, text)

    def _make_count_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        objects = turns[-1].expected
        index = self.rng.randrange(len(objects))
        num_others = sum(each.count for each in objects) - objects[index].count
        counts = [n for n in range(2, MAX_OBJECTS + 1 - num_others) if n != objects[index].count]
        if not counts:
            return None
        count = self.rng.choice(counts)
        fields = self.phrases.make_number_fields(objects[index].class_id, count)
        return self._make_changed_turn(turns, "count", index, self.phrases.paraphrase("count", **fields), count=count)

    def _make_recolour_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        objects = turns[-1].expected
        colourable = [
            index
            for index, each in enumerate(objects)
            if load_sprite_classes()[each.class_id].is_colourable and each.count == 1
        ]
        if not colourable:
            return None
        index = self.rng.choice(colourable)
        colour = self.rng.choice([c for c in range(len(COLOURS)) if c != objects[index].colour])
        fields = {"x": self._make_reference(turns, index), "c": self.phrases.get_colour_name(colour)}
        text = self.phrases.paraphrase("recolour", **fields)
        return self._make_changed_turn(turns, "recolour", index, text, colour=colour)

    def _make_another_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        """Make a turn that requests one more of the objects that the previous turn was about."""
        last = turns[-1]
        is_full = sum(each.count for each in last.expected) >= MAX_OBJECTS
        if last.target_index is None or last.edit_type == "undo" or is_full:
            return None
        target = last.expected[last.target_index]
        noun = self.phrases.choose_noun(replace(target, count=1))
        measure_word = load_sprite_classes()[target.class_id].measure_word_zh
        text = self.phrases.paraphrase("another", x=noun, m=measure_word)
        turn = self._make_changed_turn(turns, "another", last.target_index, text, count=target.count + 1)
        return replace(turn, mentioned_class_ids=frozenset())

    def _make_undo_turn(self, turns: Sequence[DialogueTurn]) -> DialogueTurn | None:
        if len(turns) < 2:
            return None
        return DialogueTurn(
            edit_type="undo",
            text=self.phrases.paraphrase("undo"),
            expected=turns[-2].expected,
            background=turns[-2].background,
            mentioned_class_ids=frozenset(each.class_id for turn in turns for each in turn.expected),
        )


def _get_name_words(class_id: int) -> set[str]:
    return set(load_sprite_classes()[class_id].names_en[0].split())


def generate_dialogues(count: int, *, seed: int) -> list[tuple[str, Dialogue]]:
    """Generate dialogues with their languages, alternately Chinese and English."""
    languages = [("zh", "en")[index % 2] for index in range(count)]
    return [
        (language, DialogueGenerator(random.Random((seed << 32) | index), language).generate())
        for index, language in enumerate(languages)
    ]
