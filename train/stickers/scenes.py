"""What is in a sticker: which objects, how large, where, in front of what; drawn at random, never twice by accident.

A scene is first *asked for* (mentions and a relation, what the caption will say) and then *placed* (items with boxes,
the truth). Positions and sizes are pixels of a CANVAS_PX canvas; cells are the nine fields of a 3 x 3 grid, row by row.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from dianjing.train.stickers.backgrounds import BACKGROUNDS, VARIANTS
from dianjing.train.stickers.objects import COLOURS, things

CANVAS_PX = 128
KINDS = ("single", "count", "pair", "trio")
RELATIONS = ("left", "right", "above", "below")
HELD_OUT_SHARE = 10  # one combination in ten is kept out of training
CENTRE = 4


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One noun of the caption: `count` times object `thing`; None where the caption leaves something open."""

    thing: int
    count: int = 1
    colour: int | None = None
    size: str | None = None  # "big" or "small"
    cell: int | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object as placed: the box's top left corner and its side, in pixels of the canvas."""

    thing: int
    colour: int | None
    x_px: int
    y_px: int
    size_px: int

    @property
    def cell(self) -> int:
        """The cell that holds the centre of the box, 0 to 8."""
        half = self.size_px // 2
        return (self.y_px + half) * 3 // CANVAS_PX * 3 + (self.x_px + half) * 3 // CANVAS_PX


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's content. `relation` says where the first mention is, seen from the second; items are in z order."""

    kind: str
    mentions: tuple[Mention, ...]
    relation: str | None
    items: tuple[Item, ...]
    background: int
    variant: int


Drawn = tuple[tuple[Mention, ...], str | None, list[Item]]  # mentions, relation, items


def is_held_out(thing: int, background: int, cell: int) -> bool:
    """Whether this combination is kept for evaluation; a fixed tenth is, whatever the seed."""
    return zlib.crc32(f"{thing} {background} {cell}".encode()) % HELD_OUT_SHARE == 0


def belongs_to(scene: Scene, split: str) -> bool:
    """Whether a scene may be drawn for a split.

    Training scenes hold no kept-out combination; in held-out ones every mention has an object in one.
    """
    kept_out = [item.thing for item in scene.items if is_held_out(item.thing, scene.background, item.cell)]
    if split == "train":
        return not kept_out
    return all(mention.thing in kept_out for mention in scene.mentions)


def place(asked: Mention, *, x: float, y: float, size_px: int, snap_px: int) -> Item:
    """Centre an object near (x, y) in unit coordinates, inside the canvas and on a grid of `snap_px` pixels."""
    size_px = max(snap_px, round(size_px / snap_px) * snap_px)
    left, top = (
        min(
            max(round((centre * CANVAS_PX - size_px / 2) / snap_px), 0),
            (CANVAS_PX - size_px) // snap_px,
        )
        * snap_px
        for centre in (x, y)
    )
    return Item(thing=asked.thing, colour=asked.colour, x_px=left, y_px=top, size_px=size_px)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What scenes are drawn from.

    objects: ids; countable: those that can be asked for in numbers. coloured: the share of mentions with a colour of
    their own, None for what falls out when every object is as likely. sized: the share of single objects that are
    asked for big or small. tidy: the share of scenes whose objects have the most usual of the sizes and places that fit
    the words; in the others they have any.
    """

    objects: Sequence[int]
    countable: Sequence[int]
    coloured: float | None = None
    sized: float = 0.4
    tidy: float = 0.0


class Hand:
    """Puts objects down: where they are meant to go, or thereabouts."""

    def __init__(self, rng: random.Random, *, is_tidy: bool, snap_px: int) -> None:
        self.rng, self.is_tidy, self.snap_px = rng, is_tidy, snap_px

    def size_px(self, sizes: Sequence[int], usual: int) -> int:
        return usual if self.is_tidy else self.rng.choice(sizes)

    def near(self, centre: float, spread: float) -> float:
        return centre if self.is_tidy else centre + self.rng.uniform(-spread, spread)


def _ask(rng: random.Random, pool: Pool, *, count: int = 1, countable: bool = False) -> Mention:
    among = pool.countable if countable else pool.objects
    if pool.coloured is None:
        thing = rng.choice(among)
        coloured = things()[thing].takes_colour and rng.random() < 0.6
    else:
        paints = [each for each in among if things()[each].takes_colour]
        coloured = bool(paints) and rng.random() < pool.coloured
        thing = rng.choice(paints if coloured else among)
    return Mention(thing=thing, count=count, colour=rng.randrange(len(COLOURS)) if coloured else None)


_SIZES_PX: dict[str | None, tuple[int, ...]] = {"big": (96, 112), "small": (48,), None: (64, 72, 80)}
_SIZES_TOGETHER_PX = (48, 56, 64, 64)


def _single(rng: random.Random, hand: Hand, pool: Pool) -> Drawn:
    asked = _ask(rng, pool)
    # on a coarse grid small and usual objects would look the same
    small = pool.sized / 2 if hand.snap_px <= 16 else 0
    size = rng.choices(("big", "small", None), (pool.sized / 2, small, 1 - pool.sized))[0]
    cell = rng.randrange(9) if size != "big" and rng.random() < 0.55 else None
    asked = Mention(thing=asked.thing, colour=asked.colour, size=size, cell=cell)
    sizes = _SIZES_PX[size]
    size_px = 64 if cell is not None and size is None else hand.size_px(sizes, sizes[0])
    row, column = divmod(CENTRE if cell is None else cell, 3)
    x, y = (hand.near(0.25 * (index + 1), 0.04) for index in (column, row))
    return (asked,), None, [place(asked, x=x, y=y, size_px=size_px, snap_px=hand.snap_px)]


_LAYOUTS = {
    2: (((0.25, 0.5), (0.75, 0.5)), ((0.25, 0.5), (0.75, 0.5)), ((0.5, 0.25), (0.5, 0.75))),
    3: (((0.5, 0.25), (0.25, 0.75), (0.75, 0.75)), ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75))),
    4: (((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),),
}


def _lay_out(rng: random.Random, mentions: list[Mention], hand: Hand) -> list[Item]:
    """Put all that is mentioned side by side, in any order, none over another."""
    asked = [mention for mention in mentions for _ in range(mention.count)]
    spots = rng.sample(rng.choice(_LAYOUTS[len(asked)]), len(asked))
    size_px = hand.size_px(_SIZES_TOGETHER_PX, 64)
    return [
        place(each, x=hand.near(x, 0.03), y=hand.near(y, 0.03), size_px=size_px, snap_px=hand.snap_px)
        for each, (x, y) in zip(asked, spots, strict=True)
    ]


def _count(rng: random.Random, hand: Hand, pool: Pool) -> Drawn:
    asked = _ask(rng, pool, count=rng.choice((2, 3, 4)), countable=True)
    return (asked,), None, _lay_out(rng, [asked], hand)


def _pair(rng: random.Random, hand: Hand, pool: Pool) -> Drawn:
    first, second = _ask(rng, pool), _ask(rng, pool)
    relation = rng.choice(RELATIONS)
    near, far = (0.25, 0.75) if relation in ("left", "above") else (0.75, 0.25)
    items = []
    for asked, along in ((first, near), (second, far)):
        along, across = hand.near(along, 0.03), hand.near(0.5, 0.1)
        x, y = (along, across) if relation in ("left", "right") else (across, along)
        size_px = hand.size_px(_SIZES_TOGETHER_PX, 64)
        items.append(place(asked, x=x, y=y, size_px=size_px, snap_px=hand.snap_px))
    return (first, second), relation if rng.random() < 0.75 else None, items


def _trio(rng: random.Random, hand: Hand, pool: Pool) -> Drawn:
    if rng.random() < 0.4:  # two of one, one of another
        mentions = [_ask(rng, pool, count=2, countable=True), _ask(rng, pool)]
    else:
        mentions = [_ask(rng, pool) for _ in range(3)]
    return tuple(mentions), None, _lay_out(rng, mentions, hand)


_DRAW = {"single": _single, "count": _count, "pair": _pair, "trio": _trio}


def draw_scene(rng: random.Random, pool: Pool, *, kinds: dict[str, float], snap_px: int, split: str) -> Scene:
    """Draw a scene of one of `kinds` (name -> weight) that belongs to `split`."""
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    hand = Hand(rng, is_tidy=pool.tidy > 0 and rng.random() < pool.tidy, snap_px=snap_px)
    while True:
        mentions, relation, items = _DRAW[kind](rng, hand, pool)
        if len({(each.thing, each.colour) for each in mentions}) < len(mentions):
            continue  # "a cat left of a cat" says nothing
        background = rng.randrange(len(BACKGROUNDS))
        behind = BACKGROUNDS[background].name_en
        if any(each.colour is not None and behind == f"{COLOURS[each.colour].name_en} background" for each in mentions):
            continue  # a white egg on white cannot be seen
        scene = Scene(
            kind=kind,
            mentions=mentions,
            relation=relation,
            items=tuple(items),
            background=background,
            variant=rng.randrange(VARIANTS),
        )
        if belongs_to(scene, split):
            return scene
