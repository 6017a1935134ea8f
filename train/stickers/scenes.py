"""Scenes of the sticker world: objects with sizes and positions in front of a background, sampled at random.

A scene has mentions and perhaps a relation (what its caption says) and instances with boxes (the ground truth).
Positions and sizes are pixels of a canvas that is CANVAS_PX wide; cells are the fields of a 3 x 3 grid, 0 to 8, row by
row. `class_id` is an id of a sprite class; `colour` and `background` are indices of COLOURS and BACKGROUNDS.
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
HELD_OUT_MODULUS = 10  # one combination in ten is held out from training
CENTER_CELL = 4


@dataclass(frozen=True, kw_only=True)
class NounMention:
    """One noun of a caption: `count` objects of a class. None: the caption leaves it open."""

    class_id: int
    count: int = 1
    colour: int | None = None
    size: str | None = None  # "big" or "small"
    cell: int | None = None


@dataclass(frozen=True, kw_only=True)
class SpriteInstance:
    """One object of a scene: its class, its colour, and the top left corner and the side of its box."""

    class_id: int
    colour: int | None
    x_px: int
    y_px: int
    size_px: int

    @property
    def cell(self) -> int:
        """The cell that holds the centre of the box, 0 to 8."""
        half_px = self.size_px // 2
        return (self.y_px + half_px) * 3 // CANVAS_PX * 3 + (self.x_px + half_px) * 3 // CANVAS_PX


@dataclass(frozen=True, kw_only=True)
class StickerScene:
    """The content of an image: what its caption says and what it shows.

    relation: position of the first mention relative to the second, one of RELATIONS. instances: in z order.
    is_canonical: whether sizes and positions are the canonical ones for the caption.
    """

    scene_type: str
    mentions: tuple[NounMention, ...]
    relation: str | None
    instances: tuple[SpriteInstance, ...]
    background: int
    variant: int
    is_canonical: bool = False


SceneDraft = tuple[tuple[NounMention, ...], str | None, list[SpriteInstance]]  # mentions, relation, instances


def is_held_out(class_id: int, background: int, cell: int) -> bool:
    """Check if a combination is held out for evaluation: a fixed tenth of them, for every seed."""
    return zlib.crc32(f"{class_id} {background} {cell}".encode()) % HELD_OUT_MODULUS == 0


def is_in_split(scene: StickerScene, split: str) -> bool:
    """Check if a scene belongs to a split.

    Scenes of "train" hold no held-out combination; in those of "held_out" every mention has an instance in one.
    """
    held_out = [each.class_id for each in scene.instances if is_held_out(each.class_id, scene.background, each.cell)]
    if split == "train":
        return not held_out
    return all(mention.class_id in held_out for mention in scene.mentions)


def place_instance(mention: NounMention, *, x: float, y: float, size_px: int, grid_px: int) -> SpriteInstance:
    """Place an object near (x, y), in unit coordinates, inside the canvas.

    Its size and its corner become multiples of `grid_px`.
    """
    size_px = max(grid_px, round(size_px / grid_px) * grid_px)
    left, top = (
        min(max(round((center * CANVAS_PX - size_px / 2) / grid_px), 0), (CANVAS_PX - size_px) // grid_px) * grid_px
        for center in (x, y)
    )
    return SpriteInstance(class_id=mention.class_id, colour=mention.colour, x_px=left, y_px=top, size_px=size_px)


@dataclass(frozen=True, kw_only=True)
class SceneSampling:
    """The distribution that scenes are sampled from.

    countable_class_ids: those that have a plural. coloured_share: of mentions with a colour; None: classes are uniform,
    and 0.6 of the colourable ones have a colour. sized_share: of single objects that the caption calls big or small.
    canonical_share: of scenes whose sizes and positions are the canonical ones for their caption; in the others they
    vary.
    """

    class_ids: Sequence[int]
    countable_class_ids: Sequence[int]
    coloured_share: float | None = None
    sized_share: float = 0.4
    canonical_share: float = 0.0


class PlacementSampler:
    """Samples sizes and positions: the canonical ones, or random ones near them.

    grid_px: what sizes and positions are rounded to.
    """

    def __init__(self, rng: random.Random, *, is_canonical: bool, grid_px: int) -> None:
        self.rng, self.is_canonical, self.grid_px = rng, is_canonical, grid_px

    def sample_size_px(self, sizes_px: Sequence[int], canonical_px: int) -> int:
        """Sample one of the sizes."""
        return canonical_px if self.is_canonical else self.rng.choice(sizes_px)

    def sample_coordinate(self, center: float, jitter: float) -> float:
        """Sample a coordinate within `jitter` of the centre."""
        return center if self.is_canonical else center + self.rng.uniform(-jitter, jitter)


def _sample_mention(
    rng: random.Random, sampling: SceneSampling, *, count: int = 1, is_countable: bool = False
) -> NounMention:
    candidates = sampling.countable_class_ids if is_countable else sampling.class_ids
    if sampling.coloured_share is None:
        class_id = rng.choice(candidates)
        is_coloured = load_sprite_classes()[class_id].is_colourable and rng.random() < 0.6
    else:
        colourable = [each for each in candidates if load_sprite_classes()[each].is_colourable]
        is_coloured = bool(colourable) and rng.random() < sampling.coloured_share
        class_id = rng.choice(colourable if is_coloured else candidates)
    return NounMention(class_id=class_id, count=count, colour=rng.randrange(len(COLOURS)) if is_coloured else None)


_SIZES_PX: dict[str | None, tuple[int, ...]] = {"big": (96, 112), "small": (48,), None: (64, 72, 80)}
_GROUP_SIZES_PX = (48, 56, 64, 64)


def _sample_single(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    mention = _sample_mention(rng, sampling)
    # on a coarse grid small objects and those without a named size would look the same
    small_share = sampling.sized_share / 2 if placement.grid_px <= 16 else 0
    size = rng.choices(("big", "small", None), (sampling.sized_share / 2, small_share, 1 - sampling.sized_share))[0]
    cell = rng.randrange(9) if size != "big" and rng.random() < 0.55 else None
    mention = NounMention(class_id=mention.class_id, colour=mention.colour, size=size, cell=cell)
    sizes = _SIZES_PX[size]
    size_px = 64 if cell is not None and size is None else placement.sample_size_px(sizes, sizes[0])
    row, column = divmod(CENTER_CELL if cell is None else cell, 3)
    x, y = (placement.sample_coordinate(0.25 * (index + 1), 0.04) for index in (column, row))
    return (mention,), None, [place_instance(mention, x=x, y=y, size_px=size_px, grid_px=placement.grid_px)]


# places of the objects of a group, in unit coordinates: arrangements that are equally probable
PAIR_CENTERS = (((0.25, 0.5), (0.75, 0.5)), ((0.5, 0.25), (0.5, 0.75)))
GROUP_CENTERS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    2: (((0.25, 0.5), (0.75, 0.5)), ((0.25, 0.5), (0.75, 0.5)), ((0.5, 0.25), (0.5, 0.75))),
    3: (((0.5, 0.25), (0.25, 0.75), (0.75, 0.75)), ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75))),
    4: (((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),),
}


def _place_group(rng: random.Random, mentions: list[NounMention], placement: PlacementSampler) -> list[SpriteInstance]:
    """Place all mentioned objects side by side in random order, without overlap."""
    objects = [mention for mention in mentions for _ in range(mention.count)]
    centers = rng.sample(rng.choice(GROUP_CENTERS[len(objects)]), len(objects))
    size_px = placement.sample_size_px(_GROUP_SIZES_PX, 64)
    return [
        place_instance(
            mention,
            x=placement.sample_coordinate(x, 0.03),
            y=placement.sample_coordinate(y, 0.03),
            size_px=size_px,
            grid_px=placement.grid_px,
        )
        for mention, (x, y) in zip(objects, centers, strict=True)
    ]


def _sample_count(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    mention = _sample_mention(rng, sampling, count=rng.choice((2, 3, 4)), is_countable=True)
    return (mention,), None, _place_group(rng, [mention], placement)


def _sample_pair(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    first, second = _sample_mention(rng, sampling), _sample_mention(rng, sampling)
    relation = rng.choice(RELATIONS)
    first_center, second_center = (0.25, 0.75) if relation in ("left", "above") else (0.75, 0.25)
    instances = []
    for mention, center in ((first, first_center), (second, second_center)):
        along, across = placement.sample_coordinate(center, 0.03), placement.sample_coordinate(0.5, 0.1)
        x, y = (along, across) if relation in ("left", "right") else (across, along)
        size_px = placement.sample_size_px(_GROUP_SIZES_PX, 64)
        instances.append(place_instance(mention, x=x, y=y, size_px=size_px, grid_px=placement.grid_px))
    return (first, second), relation if rng.random() < 0.75 else None, instances


def _sample_trio(rng: random.Random, placement: PlacementSampler, sampling: SceneSampling) -> SceneDraft:
    if rng.random() < 0.4:  # two of one class, one of another
        mentions = [_sample_mention(rng, sampling, count=2, is_countable=True), _sample_mention(rng, sampling)]
    else:
        mentions = [_sample_mention(rng, sampling) for _ in range(3)]
    return tuple(mentions), None, _place_group(rng, mentions, placement)


_SCENE_SAMPLERS = {"single": _sample_single, "count": _sample_count, "pair": _sample_pair, "trio": _sample_trio}


def sample_scene(
    rng: random.Random, sampling: SceneSampling, *, scene_weights: dict[str, float], grid_px: int, split: str
) -> StickerScene:
    """Sample a scene of a split; its type is chosen by `scene_weights` (scene type -> weight).

    Rejected are scenes with two equal mentions, and coloured objects on a background of their colour.
    """
    scene_type = rng.choices(list(scene_weights), list(scene_weights.values()))[0]
    is_canonical = sampling.canonical_share > 0 and rng.random() < sampling.canonical_share
    placement = PlacementSampler(rng, is_canonical=is_canonical, grid_px=grid_px)
    while True:
        mentions, relation, instances = _SCENE_SAMPLERS[scene_type](rng, placement, sampling)
        if len({(each.class_id, each.colour) for each in mentions}) < len(mentions):
            continue  # "a cat left of a cat" says nothing
        background = rng.randrange(len(BACKGROUNDS))
        name = BACKGROUNDS[background].name_en
        if any(each.colour is not None and name == f"{COLOURS[each.colour].name_en} background" for each in mentions):
            continue  # a white egg on white is invisible
        scene = StickerScene(
            scene_type=scene_type,
            mentions=mentions,
            relation=relation,
            instances=tuple(instances),
            background=background,
            variant=rng.randrange(NUM_VARIANTS),
            is_canonical=is_canonical,
        )
        if is_in_split(scene, split):
            return scene
