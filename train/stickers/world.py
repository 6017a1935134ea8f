"""The sticker world: endless pictures with captions in two languages and the exact truth, by seed and position."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.captions import (
    caption_en,
    caption_zh,
    countable_names,
    moving_caption_en,
    moving_caption_zh,
)
from dianjing.train.stickers.clips import Clip, Move, draw_moves
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.objects import things
from dianjing.train.stickers.rendering import item_box, render
from dianjing.train.stickers.scenes import CANVAS_PX, KINDS, Pool, Scene, draw_scene

DEFAULT_KINDS = {"single": 0.4, "count": 0.2, "pair": 0.28, "trio": 0.12}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the curriculum, before sample `until`.

    kinds: kind of scene -> weight. snap_px: pixels of the grid that places and sizes keep to; of several, each scene
    takes one. coloured, sized, tidy: shares of mentions with a colour, of single objects with a size, and of scenes
    with the most usual sizes and places, as Pool has them. least_amplitude: of what moves in clips, above 0.
    """

    kinds: dict[str, float]
    snap_px: tuple[int, ...] = (1,)
    coloured: float | None = None
    sized: float = 0.4
    tidy: float = 0.0
    least_amplitude: float = 0.3
    until: int | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"unknown kind of scene {sorted(unknown)}; the kinds are {', '.join(KINDS)}")


@dataclass(frozen=True)
class Sample:
    """One picture of the world and its truth."""

    scene: Scene
    text_zh: str
    text_en: str
    size_px: int

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 (size_px, size_px, 3)."""
        return render(self.scene, size_px=self.size_px)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """x, y, width, height of every object, in pixels."""
        return [item_box(item, self.size_px) for item in self.scene.items]

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (objects, size_px, size_px)."""
        masks = np.zeros((len(self.scene.items), self.size_px, self.size_px), bool)
        for index, item in enumerate(self.scene.items):
            x, y, side, _ = item_box(item, self.size_px)
            shown = sprite(item.thing, size_px=side, colour=item.colour)[..., 3] > 127
            masks[:index, y : y + side, x : x + side] &= ~shown  # later objects stand in front
            masks[index, y : y + side, x : x + side] = shown
        return masks


def countable_things() -> list[int]:
    """Objects that can be asked for in numbers."""
    return [thing.id for thing in things() if countable_names(thing)]


class World:
    """Samples as a pure function of (seed, position).

    size_px: side of the pictures, a multiple of 8. stages: the curriculum, last one open-ended. split: "train", or
    "held_out" for the combinations of object, background and place that training never shows. objects: ids to draw
    from (None: all).
    """

    def __init__(
        self,
        *,
        size_px: int = CANVAS_PX,
        stages: Sequence[Stage] = (Stage(kinds=DEFAULT_KINDS),),
        split: str = "train",
        objects: Sequence[int] | None = None,
    ):
        if split not in ("train", "held_out"):
            raise ValueError(f"split is {split!r}; it must be 'train' or 'held_out'")
        if size_px % 8 or size_px < 32:
            raise ValueError(f"size_px is {size_px}; it must be a multiple of 8 and at least 32")
        self.size_px, self.stages, self.split = size_px, tuple(stages), split
        self.objects = list(range(len(things()))) if objects is None else list(objects)
        self.countable = sorted(set(self.objects) & set(countable_things()))

    def stage_at(self, position: int) -> Stage:
        """The stage of the curriculum that sample `position` belongs to."""
        return next(
            (stage for stage in self.stages if stage.until is None or position < stage.until),
            self.stages[-1],
        )

    def _scene(self, rng: random.Random, stage: Stage, snap_px: int) -> Scene:
        pool = Pool(
            objects=self.objects,
            countable=self.countable,
            coloured=stage.coloured,
            sized=stage.sized,
            tidy=stage.tidy,
        )
        return draw_scene(rng, pool, kinds=stage.kinds, snap_px=snap_px, split=self.split)

    def picture(self, seed: int, position: int) -> Sample:
        """The sample at `position`; its picture is rendered when `.image` is first read."""
        rng = random.Random((seed << 48) | position)
        stage = self.stage_at(position)
        scene = self._scene(rng, stage, rng.choice(stage.snap_px))
        text_zh, text_en = caption_zh(scene, rng), caption_en(scene, rng)
        return Sample(scene=scene, text_zh=text_zh, text_en=text_en, size_px=self.size_px)

    def clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> Clip:
        """The clip at `position`, its captions say what moves; frames and truth are rendered when first read."""
        rng = random.Random((seed << 48) | (1 << 47) | position)  # apart from the picture at `position`
        scene, moves = self._moving(rng, position, _by_mention, duration_s=(num_frames - 1) / fps)
        firsts = [moves[group[0]] for group in _by_mention(scene)]
        motions = [None if move is None else MOTIONS[move.motion] for move in firsts]
        text_zh, text_en = moving_caption_zh(scene, motions, rng), moving_caption_en(scene, motions, rng)
        return Clip(scene, moves, text_zh, text_en, self.size_px, num_frames, fps)

    def click(self, seed: int, position: int, *, num_frames: int, fps: float) -> Clip:
        """A clip whose objects move one by one, also those counted together; its captions are the still picture's."""
        rng = random.Random((seed << 48) | (3 << 46) | position)
        duration_s = (num_frames - 1) / fps
        scene, moves = self._moving(rng, position, lambda s: [[i] for i in range(len(s.items))], duration_s=duration_s)
        return Clip(scene, moves, caption_zh(scene, rng), caption_en(scene, rng), self.size_px, num_frames, fps)

    def _moving(
        self, rng: random.Random, position: int, group: Callable[[Scene], list[list[int]]], *, duration_s: float
    ) -> tuple[Scene, tuple[Move | None, ...]]:
        """A scene and the moves of its items, which move in the groups that `group` makes of them."""
        stage = self.stage_at(position)
        snap_px = rng.choice(stage.snap_px)
        while True:
            scene = self._scene(rng, stage, snap_px)
            moves = draw_moves(rng, scene, group(scene), duration_s=duration_s, least=stage.least_amplitude)
            if moves is not None:
                return scene, moves


def _by_mention(scene: Scene) -> list[list[int]]:
    """The items of each mention."""
    counts = [mention.count for mention in scene.mentions]
    return [list(range(sum(counts[:index]), sum(counts[: index + 1]))) for index in range(len(counts))]
