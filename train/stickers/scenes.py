"""What is in a sticker: which objects, how large, where, in front of what; drawn at random, never twice by accident.

A scene is first *asked for* (mentions and a relation, what the caption will say) and then *placed* (items with boxes,
the truth). Positions and sizes are pixels of a CANVAS_PX canvas; cells are the nine fields of a 3 x 3 grid, row by row.
"""

import random
import zlib
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
    """Training scenes hold no kept-out combination; held-out scenes hold nothing else."""
    held_out = [is_held_out(item.thing, scene.background, item.cell) for item in scene.items]
    return all(held_out) if split == "held_out" else not any(held_out)


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


def _jitter(rng: random.Random, centre: float, spread: float) -> float:
    return centre + rng.uniform(-spread, spread)


def _ask(rng: random.Random, *, count: int = 1, colour_share: float = 0.6, among: list[int]) -> Mention:
    thing = rng.choice(among)
    coloured = things()[thing].takes_colour and rng.random() < colour_share
    return Mention(thing=thing, count=count, colour=rng.randrange(len(COLOURS)) if coloured else None)


def _single(rng: random.Random, snap_px: int, among: list[int], countable: list[int]) -> Drawn:
    asked = _ask(rng, among=among)
    size = rng.choices(("big", "small", None), (1, 1, 3))[0]
    cell = rng.randrange(9) if size != "big" and rng.random() < 0.55 else None
    asked = Mention(thing=asked.thing, colour=asked.colour, size=size, cell=cell)
    sizes = {
        "big": (88, 96),
        "small": (32, 40),
        None: (48, 56) if cell is not None else (56, 64, 72),
    }[size]
    row, column = divmod(CENTRE if cell is None else cell, 3)
    x, y = (_jitter(rng, 0.26 + 0.24 * index, 0.04) for index in (column, row))
    return (asked,), None, [place(asked, x=x, y=y, size_px=rng.choice(sizes), snap_px=snap_px)]


_COUNT_LAYOUTS = {
    2: (((0.27, 0.5), (0.73, 0.5)), ((0.27, 0.5), (0.73, 0.5)), ((0.5, 0.27), (0.5, 0.73))),
    3: (((0.19, 0.5), (0.5, 0.5), (0.81, 0.5)), ((0.5, 0.28), (0.25, 0.7), (0.75, 0.7))),
    4: (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),),
}


def _count(rng: random.Random, snap_px: int, among: list[int], countable: list[int]) -> Drawn:
    asked = _ask(rng, count=rng.choice((2, 3, 4)), among=countable)
    layout = rng.choice(_COUNT_LAYOUTS[asked.count])
    is_row = len({y for _, y in layout}) == 1 and asked.count == 3
    size_px = rng.choice((32, 40)) if is_row else rng.choice((40, 48) if asked.count > 2 else (40, 48, 56))
    items = [
        place(
            asked,
            x=_jitter(rng, x, 0.02),
            y=_jitter(rng, y, 0.04),
            size_px=size_px,
            snap_px=snap_px,
        )
        for x, y in layout
    ]
    return (asked,), None, items


def _pair(rng: random.Random, snap_px: int, among: list[int], countable: list[int]) -> Drawn:
    first, second = _ask(rng, among=among), _ask(rng, among=among)
    relation = rng.choice(RELATIONS)
    near, far = (0.27, 0.73) if relation in ("left", "above") else (0.73, 0.27)
    items = []
    for asked, along in ((first, near), (second, far)):
        along, across = _jitter(rng, along, 0.02), _jitter(rng, 0.5, 0.1)
        x, y = (along, across) if relation in ("left", "right") else (across, along)
        items.append(place(asked, x=x, y=y, size_px=rng.choice((40, 48, 56)), snap_px=snap_px))
    return (first, second), relation if rng.random() < 0.75 else None, items


def _trio(rng: random.Random, snap_px: int, among: list[int], countable: list[int]) -> Drawn:
    if rng.random() < 0.4:  # two of one, one of another
        mentions = [_ask(rng, count=2, among=countable), _ask(rng, among=among)]
    else:
        mentions = [_ask(rng, among=among) for _ in range(3)]
    asked = [mention for mention in mentions for _ in range(mention.count)]
    relation = "row" if len(mentions) == 3 and rng.random() < 0.6 else None
    layout = _COUNT_LAYOUTS[3][0] if relation else rng.choice(_COUNT_LAYOUTS[3])
    spots = list(layout) if relation else rng.sample(layout, 3)
    is_row = layout is _COUNT_LAYOUTS[3][0]
    items = [
        place(each, x=_jitter(rng, x, 0.02), y=_jitter(rng, y, 0.04), size_px=size_px, snap_px=snap_px)
        for each, (x, y) in zip(asked, spots, strict=True)
        for size_px in [rng.choice((32, 40)) if is_row else rng.choice((40, 48))]
    ]
    return tuple(mentions), relation, items


_DRAW = {"single": _single, "count": _count, "pair": _pair, "trio": _trio}


def draw_scene(
    rng: random.Random,
    *,
    kinds: dict[str, float],
    objects: list[int],
    countable: list[int],
    snap_px: int = 1,
    split: str = "train",
) -> Scene:
    """Draw a scene of one of `kinds` (name -> weight) that belongs to `split`.

    objects: ids to draw from; countable: those of them that can be asked for in numbers.
    """
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    while True:
        mentions, relation, items = _DRAW[kind](rng, snap_px, objects, countable)
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
