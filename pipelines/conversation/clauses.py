"""One clause of what is said: the objects it names with all that is said of each, and what is left over."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dianjing.pipelines.conversation.edits import Wanted
from dianjing.pipelines.conversation.reading import Word

OF_THE_SIDE = ("left", "right", "top", "bottom")
SIDE_OF_PLACE = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
IS_THERE = ("是", "有", "is")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object as it is spoken of; name None is "it". is_new: "a cat", not "the cat"."""

    name: str | None
    number: int | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    is_new: bool = False
    is_anchor: bool = False

    def wanted(self) -> Wanted:
        assert self.name is not None
        return Wanted(name=self.name, count=self.number or 1, colour=self.colour, size=self.size, place=self.place)


@dataclass(kw_only=True)
class Clause:
    """What is said of no object in particular is here: "make it red", "on the left"."""

    kinds: set[str] = field(default_factory=set)
    mentions: list[Mention] = field(default_factory=list)
    number: int | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    relation: str | None = None
    background: str | None = None

    @property
    def anchor(self) -> Mention | None:
        return next((mention for mention in self.mentions if mention.is_anchor), None)

    @property
    def named(self) -> list[Mention]:
        """The objects it is about, without the one that only says where."""
        return [mention for mention in self.mentions if not mention.is_anchor]


class _Gathering:
    """Reads word after word; keeps what has been said and not yet given to an object."""

    def __init__(self) -> None:
        self.clause = Clause()
        self.number: int | None = None
        self.colour: str | None = None
        self.size: str | None = None
        self.place: str | None = None
        self.is_new = False
        self.next_is_anchor = False
        self.last: str = ""  # what the word before was: an object, a place ...
        self.points = False  # the word before is "this" or "that", maybe of an object

    def take(self, word: Word, after: Sequence[Word]) -> None:
        if not word.text.strip():
            return
        points, self.points = self.points, False
        if (name := word.value("object")) is not None:
            if points:  # "that cat"
                self.next_is_anchor = self.clause.mentions.pop().is_anchor
            self._mention(name)
        elif (side := word.value("side")) is not None:
            self.clause.relation, self.next_is_anchor, self.last = side, True, "side"
        elif (place := word.value("place")) is not None:
            self._place(place, word, after)
        elif (background := word.value("background")) is not None:
            self.clause.background, self.last = background, "background"
        elif "it" in word.meanings:
            count = len(self.clause.mentions)
            self._mention(None)
            self.points = len(self.clause.mentions) > count
        else:
            self._attribute(word)
        self.clause.kinds |= {meaning for meaning in word.meanings if " " not in meaning}

    def _attribute(self, word: Word) -> None:
        if (number := word.value("number")) is not None:
            self.number, self.is_new = int(number), True
        if (colour := word.value("colour")) is not None:
            self.colour = colour
        if word.meanings & {"big", "small"}:
            self.size = "big" if "big" in word.meanings else "small"
        if "indefinite" in word.meanings:
            self.is_new = True
        if word.text not in ("的", "of", "s", "'"):
            self.last = "word"

    def _mention(self, name: str | None) -> None:
        is_there_already = name is None and self.clause.mentions and not self.next_is_anchor
        if is_there_already and self.clause.mentions[-1].name is not None and not self.clause.mentions[-1].is_new:
            return  # "the cat, make it bigger"
        mention = Mention(
            name=name, number=self.number, colour=self.colour, size=self.size, place=self.place,
            is_new=self.is_new, is_anchor=self.next_is_anchor,
        )  # fmt: skip
        self.clause.mentions.append(mention)
        self.number = self.colour = self.size = self.place = None
        self.is_new = self.next_is_anchor = False
        self.last = "object" if name is not None or not mention.is_anchor else "word"

    def _place(self, place: str, word: Word, after: Sequence[Word]) -> None:
        is_chinese = not word.text.isascii()
        if is_chinese and self.last == "object" and place in OF_THE_SIDE:  # 猫的左边
            self.clause.relation = SIDE_OF_PLACE[place]
            self.clause.mentions[-1] = replace(self.clause.mentions[-1], is_anchor=True)
        elif is_chinese and self.last == "background":
            return  # 雪地上面
        elif after and after[0].text in IS_THERE:  # 左边是
            self.place = place
        elif self.clause.mentions and self.clause.mentions[-1].place is None and not self.clause.mentions[-1].is_anchor:
            self.clause.mentions[-1] = replace(self.clause.mentions[-1], place=place)
        else:
            self.clause.place = place
        self.last = "place"

    def finish(self) -> Clause:
        clause = self.clause
        clause.number, clause.colour, clause.size = self.number, self.colour, self.size
        clause.place = clause.place or self.place
        return clause


def gather(read: Sequence[Word]) -> Clause:
    gathering = _Gathering()
    for index, word in enumerate(read):
        gathering.take(word, read[index + 1 :])
    return gathering.finish()
