"""The sticker world: endless pictures with captions in two languages and the exact truth, by seed and position."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.backgrounds import paint
from dianjing.train.stickers.captions import caption_en, caption_zh, countable_names
from dianjing.train.stickers.objects import things
from dianjing.train.stickers.scenes import CANVAS_PX, KINDS, Item, Scene, draw_scene

DEFAULT_KINDS = {"single": 0.4, "count": 0.2, "pair": 0.28, "trio": 0.12}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the curriculum, before sample `until`.

    kinds: kind of scene -> weight. snap_px: pixels of the grid that places and sizes keep to; of several, each scene
    takes one.
    """

    kinds: dict[str, float]
    snap_px: tuple[int, ...] = (1,)
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
        return [_box(item, self.size_px) for item in self.scene.items]

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (objects, size_px, size_px)."""
        masks = np.zeros((len(self.scene.items), self.size_px, self.size_px), bool)
        for index, item in enumerate(self.scene.items):
            x, y, side, _ = _box(item, self.size_px)
            shown = sprite(item.thing, size_px=side, colour=item.colour)[..., 3] > 127
            masks[:index, y : y + side, x : x + side] &= ~shown  # later objects stand in front
            masks[index, y : y + side, x : x + side] = shown
        return masks


def _box(item: Item, size_px: int) -> tuple[int, int, int, int]:
    x, y, side = (value * size_px // CANVAS_PX for value in (item.x_px, item.y_px, item.size_px))
    return x, y, side, side


def paste(canvas: np.ndarray, pixels: np.ndarray, *, x: int, y: int) -> None:
    """Lay a premultiplied sprite (S, S, 4) over the canvas (H, W, 3), in place."""
    side = pixels.shape[0]
    under = canvas[y : y + side, x : x + side]
    left = under.astype(np.uint16) * (255 - pixels[..., 3:].astype(np.uint16)) + 128
    under[:] = pixels[..., :3] + ((left + (left >> 8)) >> 8).astype(np.uint8)  # a rounded division by 255


def render(scene: Scene, *, size_px: int) -> np.ndarray:
    """Draw the scene: uint8 (size_px, size_px, 3)."""
    canvas = paint(scene.background, scene.variant, size_px=size_px).copy()
    for item in scene.items:
        x, y, side, _ = _box(item, size_px)
        paste(canvas, sprite(item.thing, size_px=side, colour=item.colour), x=x, y=y)
    return canvas


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

    def picture(self, seed: int, position: int) -> Sample:
        """The sample at `position`; its picture is rendered when `.image` is first read."""
        rng = random.Random((seed << 48) | position)
        stage = self.stage_at(position)
        scene = draw_scene(
            rng,
            kinds=stage.kinds,
            snap_px=rng.choice(stage.snap_px),
            split=self.split,
            objects=self.objects,
            countable=self.countable,
        )
        text_zh, text_en = caption_zh(scene, rng), caption_en(scene, rng)
        return Sample(scene=scene, text_zh=text_zh, text_en=text_en, size_px=self.size_px)
