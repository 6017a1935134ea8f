"""Wording of the evaluation's dialogues: random noun phrases, references and edit requests in one language."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

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
from dianjing.train.stickers.scenes import NounMention
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes


@dataclass(frozen=True, kw_only=True)
class ExpectedObjects:
    """Objects of one class that an image must show: how many, and in which colour (None: the class's own colours)."""

    class_id: int
    count: int = 1
    colour: int | None = None


class PhraseSampler:
    """Samples phrases of one language, "zh" or "en", with a random generator that its owner shares."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self.rng, self.is_chinese = rng, language == "zh"
        self.paraphrases = EDIT_PARAPHRASES_ZH if self.is_chinese else EDIT_PARAPHRASES_EN

    def paraphrase(self, key: str, **values: str) -> str:
        """Choose one paraphrase of an edit and fill in its fields."""
        return self.rng.choice(self.paraphrases[key]).format(**values)

    def make_noun_phrase(self, expected: ExpectedObjects) -> str:
        """Make a noun phrase with an article or a number, such as "a red balloon"."""
        mention = NounMention(class_id=expected.class_id, count=expected.count, colour=expected.colour)
        return (make_noun_phrase_zh if self.is_chinese else make_noun_phrase_en)(mention, self.rng)

    def choose_noun(self, expected: ExpectedObjects) -> str:
        """Choose a noun without an article, such as "balloons"."""
        sprite_class = load_sprite_classes()[expected.class_id]
        if self.is_chinese:
            return self.rng.choice(sprite_class.names_zh)
        return pluralize(sprite_class.names_en[0]) if expected.count > 1 else sprite_class.names_en[0]

    def choose_location(self, background: int) -> str:
        """Choose a phrase that locates something in front of a background, such as "on the grass"."""
        entry = BACKGROUNDS[background]
        return self.rng.choice(entry.location_phrases_zh if self.is_chinese else entry.location_phrases_en)

    def get_background_name(self, background: int) -> str:
        """Return the noun of a background."""
        return BACKGROUNDS[background].name_zh if self.is_chinese else BACKGROUNDS[background].name_en

    def get_colour_name(self, colour: int) -> str:
        """Return the name of a colour."""
        return COLOURS[colour].name_zh if self.is_chinese else COLOURS[colour].name_en

    def get_side_phrase(self, side: str) -> str:
        """Return the preposition of a side, such as "to the left of"."""
        return (SIDE_PHRASES_ZH if self.is_chinese else SIDE_PHRASES_EN)[side]

    def choose_cell_phrase(self, cell: int) -> str:
        """Choose a phrase for a cell of the 3 x 3 grid, such as "at the top left"."""
        return self.rng.choice((CELLS_ZH if self.is_chinese else CELLS_EN)[cell])

    def make_number_fields(self, class_id: int, count: int) -> dict[str, str]:
        """Make the fields of an edit that requests a number of objects."""
        sprite_class = load_sprite_classes()[class_id]
        if self.is_chinese:
            return {"n": NUMBERS_ZH[count] + sprite_class.measure_word_zh + self.rng.choice(sprite_class.names_zh)}
        return {"n": NUMBERS_EN[count], "xs": pluralize(sprite_class.names_en[0])}

    def make_reference(self, objects: Sequence[ExpectedObjects], index: int, *, is_antecedent: bool) -> str:
        """Refer to one of the objects: by its noun or, in Chinese, sometimes by 它 (it).

        is_antecedent: the previous turn was about this object, so that a pronoun is clear.
        """
        is_clear = is_antecedent and objects[index].count == 1
        if self.is_chinese and (is_clear or len(objects) == 1) and self.rng.random() < 0.3:
            return "它"
        return self.choose_noun(objects[index])

    def make_first_request(self, phrase: str, location: str) -> str:
        """Request the first image, with one noun phrase."""
        forms = (
            (f"给我画{phrase}，要在{location}", f"来张图吧，{location}要有{phrase}")
            if self.is_chinese
            else (f"could you paint {phrase} {location}?", f"show me {phrase} {location}")
        )
        return self.rng.choice(forms)

    def make_first_pair_request(self, phrase: str, side: str, other: str, location: str) -> str:
        """Request the first image, with two noun phrases and the side of the first one."""
        if self.is_chinese:
            return f"来个{location}的画面，{phrase}要在{other}的{self.get_side_phrase(side)}"
        return f"i want {phrase} {self.get_side_phrase(side)} {other}, both {location}"
