"""Scripted talks of the sticker world: what a person might say turn by turn, and what the pictures must then show."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dianjing.train.phrases import PHRASES_EN, PHRASES_ZH, SIDES_EN, SIDES_ZH
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.captions import CELLS_EN, CELLS_ZH, NUMBERS_EN, NUMBERS_ZH, phrase_en, phrase_zh, plural
from dianjing.train.stickers.objects import COLOURS, things
from dianjing.train.stickers.scenes import RELATIONS, Mention
from dianjing.train.stickers.world import countable_things

MAX_KINDS, MAX_OBJECTS = 3, 4
EDITS = {
    "background": 3, "add": 4, "remove": 2, "replace": 3, "move": 2, "bigger": 1.5, "smaller": 1.5, "count": 2,
    "recolour": 2, "another": 1, "undo": 1.5,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One kind of object that a picture must show."""

    thing: int
    count: int = 1
    colour: int | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One turn: what is said, and what must then be seen.

    kind: a key of EDITS, or "draw". shown: all objects; background: None where none was asked for. subject: the index
    in `shown` of what the turn is about, None for the background, all of it or what is gone; gone: what it was before.
    mentioned: objects that need not be as they were. place: a cell of 3 x 3; side: of the object `beside`.
    """

    kind: str
    text: str
    shown: tuple[Shown, ...]
    background: int | None
    subject: int | None = None
    gone: int | None = None
    mentioned: frozenset[int] = frozenset()
    place: int | None = None
    side: str | None = None
    beside: int | None = None


Talk = tuple[Line, ...]


class Writer:
    """Makes up talks in one language."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self.rng, self.language = rng, language
        self.phrases = PHRASES_ZH if language == "zh" else PHRASES_EN
        self.countable = countable_things()

    def talk(self) -> Talk:
        """3 to 6 lines."""
        lines = [self._opening()]
        length = self.rng.randint(3, 6)
        while len(lines) < length:
            kind = self.rng.choices(list(EDITS), list(EDITS.values()))[0]
            line = getattr(self, f"_{kind}")(lines)
            if line is not None and not (kind == "undo" and lines[-1].kind == "undo"):
                lines.append(line)
        return tuple(lines)

    def _thing(self, taken: Sequence[Shown], *, colours: bool = False) -> Shown:
        """An object that is not there yet, one that can be counted."""
        names = {name for each in taken for name in things()[each.thing].names_en[0].split()}
        while True:
            thing = self.rng.choice(self.countable)
            if thing in {each.thing for each in taken} or names & set(things()[thing].names_en[0].split()):
                continue
            if colours and not things()[thing].takes_colour:
                continue
            coloured = things()[thing].takes_colour and (colours or self.rng.random() < 0.4)
            return Shown(thing=thing, colour=self.rng.randrange(len(COLOURS)) if coloured else None)

    def _phrase(self, shown: Shown) -> str:
        """ "a red balloon"."""
        mention = Mention(thing=shown.thing, count=shown.count, colour=shown.colour)
        return (phrase_zh if self.language == "zh" else phrase_en)(mention, self.rng)

    def _name(self, shown: Shown) -> str:
        thing = things()[shown.thing]
        if self.language == "zh":
            return self.rng.choice(thing.names_zh)
        return plural(thing.names_en[0]) if shown.count > 1 else thing.names_en[0]

    def _where(self, background: int) -> str:
        entry = BACKGROUNDS[background]
        return self.rng.choice(entry.where_zh if self.language == "zh" else entry.where_en)

    def _say(self, key: str, **words: str) -> str:
        return self.rng.choice(self.phrases[key]).format(**words)

    def _side(self, side: str) -> str:
        return (SIDES_ZH if self.language == "zh" else SIDES_EN)[side]

    def _cell(self, cell: int) -> str:
        return self.rng.choice((CELLS_ZH if self.language == "zh" else CELLS_EN)[cell])

    def _it(self, lines: Sequence[Line], index: int) -> str:
        """An object by name, or "it" where the line before was about it."""
        last, shown = lines[-1], lines[-1].shown
        is_clear = last.kind != "undo" and last.subject == index and shown[index].count == 1
        if self.language == "zh" and (is_clear or len(shown) == 1) and self.rng.random() < 0.3:
            return "它"
        return self._name(shown[index])

    def _pick_background(self, now: int | None) -> int:
        return self.rng.choice([index for index in range(len(BACKGROUNDS)) if index != now])

    def _opening(self) -> Line:
        first = self._thing(())
        background = self._pick_background(None)
        where, zh = self._where(background), self.language == "zh"
        form = self.rng.choice(("one", "one", "pair", "count"))
        if form == "count":
            first = replace(first, count=2)
        phrase = self._phrase(first)
        if form != "pair":
            text = self.rng.choice((f"给我画{phrase}，要在{where}", f"来张图吧，{where}要有{phrase}") if zh else
                                   (f"could you paint {phrase} {where}?", f"show me {phrase} {where}"))  # fmt: skip
            return Line(kind="draw", text=text, shown=(first,), background=background, subject=0)
        second, side = self._thing((first,)), self.rng.choice(RELATIONS)
        other = self._phrase(second)
        text = (
            f"来个{where}的画面，{phrase}要在{other}的{self._side(side)}"
            if zh
            else f"i want {phrase} {self._side(side)} {other}, both {where}"
        )
        return Line(
            kind="draw", text=text, shown=(first, second), background=background, subject=0, side=side, beside=1
        )

    def _background(self, lines: Sequence[Line]) -> Line:
        now, background = lines[-1], self._pick_background(lines[-1].background)
        entry = BACKGROUNDS[background]
        name = entry.name_zh if self.language == "zh" else entry.name_en
        text = self._say("background", where=self._where(background), background=name)
        return Line(kind="background", text=text, shown=now.shown, background=background)

    def _add(self, lines: Sequence[Line]) -> Line | None:
        now = lines[-1]
        if len(now.shown) == MAX_KINDS or sum(each.count for each in now.shown) >= MAX_OBJECTS - 1:
            return None
        new = self._thing(now.shown)
        shown = (*now.shown, new)
        line = Line(kind="add", text="", shown=shown, background=now.background, subject=len(now.shown),
                    mentioned=frozenset({new.thing}))  # fmt: skip
        alone = [index for index, each in enumerate(now.shown) if each.count == 1]
        if alone and self.rng.random() < 0.4:
            beside, side = self.rng.choice(alone), self.rng.choice(RELATIONS)
            words = {"a": self._phrase(new), "y": self._name(now.shown[beside]), "side": self._side(side)}
            return replace(line, text=self._say("add beside", **words), side=side, beside=beside)
        return replace(line, text=self._say("add", a=self._phrase(new)))

    def _remove(self, lines: Sequence[Line]) -> Line | None:
        now = lines[-1]
        if len(now.shown) < 2:
            return None
        index = self.rng.randrange(len(now.shown))
        shown, gone = (*now.shown[:index], *now.shown[index + 1 :]), now.shown[index].thing
        text = self._say("remove", x=self._it(lines, index))
        return Line(kind="remove", text=text, shown=shown, background=now.background, gone=gone,
                    mentioned=frozenset({gone}))  # fmt: skip

    def _changed(self, lines: Sequence[Line], kind: str, index: int, text: str, **changes: Any) -> Line:
        now = lines[-1]
        changed = replace(now.shown[index], **changes)
        shown = (*now.shown[:index], changed, *now.shown[index + 1 :])
        mentioned = frozenset({now.shown[index].thing, changed.thing})
        return Line(kind=kind, text=text, shown=shown, background=now.background, subject=index, mentioned=mentioned)

    def _single(self, lines: Sequence[Line]) -> int | None:
        """The index of a kind of which there is one."""
        alone = [index for index, each in enumerate(lines[-1].shown) if each.count == 1]
        return self.rng.choice(alone) if alone else None

    def _replace(self, lines: Sequence[Line]) -> Line | None:
        index = self._single(lines)
        if index is None:
            return None
        new, old = self._thing(lines[-1].shown), lines[-1].shown[index]
        text = self._say("replace", x=self._it(lines, index), a=self._phrase(new))
        return replace(self._changed(lines, "replace", index, text, thing=new.thing, colour=new.colour), gone=old.thing)

    def _move(self, lines: Sequence[Line]) -> Line | None:
        index, shown = self._single(lines), lines[-1].shown
        if index is None or sum(each.count for each in shown) > 2:
            return None
        others = [i for i, each in enumerate(shown) if i != index and each.count == 1]
        name = self._it(lines, index)
        if others and self.rng.random() < 0.5:
            side, beside = self.rng.choice(RELATIONS), others[0]
            text = self._say("move beside", x=name, y=self._name(shown[beside]), side=self._side(side))
            return replace(self._changed(lines, "move", index, text), side=side, beside=beside)
        place = self.rng.choice([cell for cell in range(9) if cell != 4])
        text = self._say("move", x=name, place=self._cell(place))
        return replace(self._changed(lines, "move", index, text), place=place)

    def _resized(self, lines: Sequence[Line], kind: str) -> Line | None:
        index = self._single(lines)
        if index is None or any(line.kind in ("bigger", "smaller") for line in lines):
            return None
        return self._changed(lines, kind, index, self._say(kind, x=self._it(lines, index)))

    def _bigger(self, lines: Sequence[Line]) -> Line | None:
        return self._resized(lines, "bigger")

    def _smaller(self, lines: Sequence[Line]) -> Line | None:
        return self._resized(lines, "smaller")

    def _count(self, lines: Sequence[Line]) -> Line | None:
        shown = lines[-1].shown
        index = self.rng.randrange(len(shown))
        others = sum(each.count for each in shown) - shown[index].count
        counts = [n for n in range(2, MAX_OBJECTS + 1 - others) if n != shown[index].count]
        if not counts:
            return None
        count, thing = self.rng.choice(counts), things()[shown[index].thing]
        if self.language == "zh":
            words = {"n": NUMBERS_ZH[count] + thing.measure_zh + self.rng.choice(thing.names_zh)}
        else:
            words = {"n": NUMBERS_EN[count], "xs": plural(thing.names_en[0])}
        return self._changed(lines, "count", index, self._say("count", **words), count=count)

    def _recolour(self, lines: Sequence[Line]) -> Line | None:
        shown = lines[-1].shown
        able = [i for i, each in enumerate(shown) if things()[each.thing].takes_colour and each.count == 1]
        if not able:
            return None
        index = self.rng.choice(able)
        colour = self.rng.choice([c for c in range(len(COLOURS)) if c != shown[index].colour])
        said = COLOURS[colour].name_zh if self.language == "zh" else COLOURS[colour].name_en
        text = self._say("recolour", x=self._it(lines, index), c=said)
        return self._changed(lines, "recolour", index, text, colour=colour)

    def _another(self, lines: Sequence[Line]) -> Line | None:
        """One more of what the line before was about."""
        now = lines[-1]
        if now.subject is None or now.kind == "undo" or sum(each.count for each in now.shown) >= MAX_OBJECTS:
            return None
        subject = now.shown[now.subject]
        name = self._name(replace(subject, count=1))
        text = self._say("another", x=name, m=things()[subject.thing].measure_zh)
        line = self._changed(lines, "another", now.subject, text, count=subject.count + 1)
        return replace(line, mentioned=frozenset())

    def _undo(self, lines: Sequence[Line]) -> Line | None:
        if len(lines) < 2:
            return None
        before = lines[-2]
        everything = frozenset(each.thing for line in lines for each in line.shown)
        return Line(kind="undo", text=self._say("undo"), shown=before.shown, background=before.background,
                    mentioned=everything)  # fmt: skip


def write_talks(count: int, *, seed: int) -> list[tuple[str, Talk]]:
    """Talks with their languages, Chinese and English in turn."""
    languages = [("zh", "en")[index % 2] for index in range(count)]
    return [
        (language, Writer(random.Random((seed << 32) | index), language).talk())
        for index, language in enumerate(languages)
    ]
