"""What is in a sticker: which objects, how large, where, in front of what; drawn at random, never twice by accident.

A scene is first *asked for* (mentions and a relation, what the caption will say) and then *placed* (items with boxes,
the truth). Positions and sizes are pixels of a CANVAS_PX canvas; cells are the nine fields of a 3 x 3 grid, row by row.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from dianjing.train.stickers.backgrounds import BACKGROUNDS, NUM_VARIANTS
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

CANVAS_PX = 128
SCENE_TYPES = ("single", "count", "pair", "trio")
RELATIONS = ("left", "right", "above", "below")
HELD_OUT_MODULUS = 10  # one combination in ten is kept out of training
CENTER_CELL = 4


@dataclass(frozen=True, kw_only=True)
class NounMention:
    """One noun of the caption: `count` times object `thing`; None where the caption leaves something open."""

    class_id: int
    count: int = 1
    colour: int | None = None
    size: str | None = None  # "big" or "small"
    cell: int | None = None


@dataclass(frozen=True, kw_only=True)
class SpriteInstance:
    """One object as placed: the box's top left corner and its side, in pixels of the canvas."""

    class_id: int
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
class StickerScene:
    """A picture's content. `relation` says where the first mention is, seen from the second; items are in z order."""

    scene_type: str
    mentions: tuple[NounMention, ...]
    relation: str | None
    instances: tuple[SpriteInstance, ...]
    background: int
    variant: int


SceneDraft = tuple[tuple[NounMention, ...], str | None, list[SpriteInstance]]  # mentions, relation, items


def is_held_out(class_id: int, background: int, cell: int) -> bool:
    """Whether this combination is kept for evaluation; a fixed tenth is, whatever the seed."""
    return zlib.crc32(f"{class_id} {background} {cell}".encode()) % HELD_OUT_MODULUS == 0


def is_in_split(scene: StickerScene, split: str) -> bool:
    """Whether a scene may be drawn for a split.

    Training scenes hold no kept-out combination; in held-out ones every mention has an object in one.
    """
    kept_out = [item.class_id for item in scene.instances if is_held_out(item.class_id, scene.background, item.cell)]
    if split == "train":
        return not kept_out
    return all(mention.class_id in kept_out for mention in scene.mentions)


def place_instance(mention: NounMention, *, x: float, y: float, size_px: int, grid_px: int) -> SpriteInstance:
    """Centre an object near (x, y) in unit coordinates, inside the canvas and on a grid of `snap_px` pixels."""
    size_px = max(grid_px, round(size_px / grid_px) * grid_px)
    left, top = (
        min(max(round((centre * CANVAS_PX - size_px / 2) / grid_px), 0), (CANVAS_PX - size_px) // grid_px) * grid_px
        for centre in (x, y)
    )
    return SpriteInstance(class_id=mention.class_id, colour=mention.colour, x_px=left, y_px=top, size_px=size_px)


@dataclass(frozen=True, kw_only=True)
class SceneSampling:
    """What scenes are drawn from.

    objects: ids; countable: those that can be asked for in numbers. coloured: the share of mentions with a colour of
    their own, None for what falls out when every object is as likely. sized: the share of single objects that are
    asked for big or small. tidy: the share of scenes whose objects have the most usual of the sizes and places that fit
    the words; in the others they have any.
    """

    class_ids: Sequence[int]
    countable_class_ids: Sequence[int]
    coloured_share: float | None = None
    sized_share: float = 0.4
    canonical_share: float = 0.0


class PlacementSampler:
    """Puts objects down: where they are meant to go, or thereabouts."""

    def __init__(self, rng: random.Random, *, is_canonical: bool, grid_px: int) -> None:
        self.rng, self.is_canonical, self.grid_px = rng, is_canonical, grid_px

    def sample_size_px(self, sizes_px: Sequence[int], canonical_px: int) -> int:
        return canonical_px if self.is_canonical else self.rng.choice(sizes_px)

    def sample_coordinate(self, center: float, jitter: float) -> float:
        return center if self.is_canonical else center + self.rng.uniform(-jitter, jitter)


def _sample_mention(
    rng: random.Random, sampling: SceneSampling, *, count: int = 1, is_countable: bool = False
) -> NounMention:
    among = sampling.countable_class_ids if is_countable else sampling.class_ids
    if sampling.coloured_share is None:
        thing = rng.choice(among)
        coloured = load_sprite_classes()[thing].is_colourable and rng.random() < 0.6
    else:
        paints = [each for each in among if load_sprite_classes()[each].is_colourable]
        coloured = bool(paints) and rng.random() < sampling.coloured_share
        thing = rng.choice(paints if coloured else among)
    return NounMention(class_id=thing, count=count, colour=rng.randrange(len(COLOURS)) if coloured else None)


_SIZES_PX: dict[str | None, tuple[int, ...]] = {"big": (96, 112), "small": (48,), None: (64, 72, 80)}
_GROUP_SIZES_PX = (48, 56, 64, 64)


def _sample_single(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    asked = _sample_mention(rng, sampling)
    # on a coarse grid small and usual objects would look the same
    small = sampling.sized_share / 2 if placement.grid_px <= 16 else 0
    size = rng.choices(("big", "small", None), (sampling.sized_share / 2, small, 1 - sampling.sized_share))[0]
    cell = rng.randrange(9) if size != "big" and rng.random() < 0.55 else None
    asked = NounMention(class_id=asked.class_id, colour=asked.colour, size=size, cell=cell)
    sizes = _SIZES_PX[size]
    size_px = 64 if cell is not None and size is None else placement.sample_size_px(sizes, sizes[0])
    row, column = divmod(CENTER_CELL if cell is None else cell, 3)
    x, y = (placement.sample_coordinate(0.25 * (index + 1), 0.04) for index in (column, row))
    return (asked,), None, [place_instance(asked, x=x, y=y, size_px=size_px, grid_px=placement.grid_px)]


_GROUP_CENTERS = {
    2: (((0.25, 0.5), (0.75, 0.5)), ((0.25, 0.5), (0.75, 0.5)), ((0.5, 0.25), (0.5, 0.75))),
    3: (((0.5, 0.25), (0.25, 0.75), (0.75, 0.75)), ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75))),
    4: (((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),),
}


def _place_group(rng: random.Random, mentions: list[NounMention], placement: PlacementSampler) -> list[SpriteInstance]:
    """Put all that is mentioned side by side, in any order, none over another."""
    asked = [mention for mention in mentions for _ in range(mention.count)]
    spots = rng.sample(rng.choice(_GROUP_CENTERS[len(asked)]), len(asked))
    size_px = placement.sample_size_px(_GROUP_SIZES_PX, 64)
    return [
        place_instance(
            each,
            x=placement.sample_coordinate(x, 0.03),
            y=placement.sample_coordinate(y, 0.03),
            size_px=size_px,
            grid_px=placement.grid_px,
        )
        for each, (x, y) in zip(asked, spots, strict=True)
    ]


def _sample_count(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    asked = _sample_mention(rng, sampling, count=rng.choice((2, 3, 4)), is_countable=True)
    return (asked,), None, _place_group(rng, [asked], placement)


def _sample_pair(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    first, second = _sample_mention(rng, sampling), _sample_mention(rng, sampling)
    relation = rng.choice(RELATIONS)
    near, far = (0.25, 0.75) if relation in ("left", "above") else (0.75, 0.25)
    items = []
    for asked, along in ((first, near), (second, far)):
        along, across = placement.sample_coordinate(along, 0.03), placement.sample_coordinate(0.5, 0.1)
        x, y = (along, across) if relation in ("left", "right") else (across, along)
        size_px = placement.sample_size_px(_GROUP_SIZES_PX, 64)
        items.append(place_instance(asked, x=x, y=y, size_px=size_px, grid_px=placement.grid_px))
    return (first, second), relation if rng.random() < 0.75 else None, items


def _sample_trio(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    if rng.random() < 0.4:  # two of one, one of another
        mentions = [_sample_mention(rng, sampling, count=2, is_countable=True), _sample_mention(rng, sampling)]
    else:
        mentions = [_sample_mention(rng, sampling) for _ in range(3)]
    return tuple(mentions), None, _place_group(rng, mentions, placement)


_SCENE_SAMPLERS = {"single": _sample_single, "count": _sample_count, "pair": _sample_pair, "trio": _sample_trio}


def sample_scene(
    rng: random.Random, sampling: SceneSampling, *, scene_weights: dict[str, float], grid_px: int, split: str
) -> StickerScene:
    """Draw a scene of one of `kinds` (name -> weight) that belongs to `split`."""
    kind = rng.choices(list(scene_weights), list(scene_weights.values()))[0]
    hand = PlacementSampler(
        rng, is_canonical=sampling.canonical_share > 0 and rng.random() < sampling.canonical_share, grid_px=grid_px
    )
    while True:
        mentions, relation, items = _SCENE_SAMPLERS[kind](rng, hand, sampling)
        if len({(each.class_id, each.colour) for each in mentions}) < len(mentions):
            continue  # "a cat left of a cat" says nothing
        background = rng.randrange(len(BACKGROUNDS))
        behind = BACKGROUNDS[background].name_en
        if any(each.colour is not None and behind == f"{COLOURS[each.colour].name_en} background" for each in mentions):
            continue  # a white egg on white cannot be seen
        scene = StickerScene(
            scene_type=kind,
            mentions=mentions,
            relation=relation,
            instances=tuple(items),
            background=background,
            variant=rng.randrange(NUM_VARIANTS),
        )
        if is_in_split(scene, split):
            return scene
