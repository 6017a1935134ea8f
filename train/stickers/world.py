"""The sticker world: endless pictures with captions in two languages and the exact truth, by seed and position."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.captions import (
    list_countable_names,
    make_caption_en,
    make_caption_zh,
    make_motion_caption_en,
    make_motion_caption_zh,
)
from dianjing.train.stickers.clips import ObjectMotion, StickerClip, sample_object_motions
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.rendering import get_instance_box, render_scene
from dianjing.train.stickers.scenes import CANVAS_PX, SCENE_TYPES, SceneSampling, StickerScene, sample_scene
from dianjing.train.stickers.sprite_classes import load_sprite_classes

DEFAULT_SCENE_WEIGHTS = {"single": 0.4, "count": 0.2, "pair": 0.28, "trio": 0.12}


@dataclass(frozen=True, kw_only=True)
class CurriculumStage:
    """A stretch of the curriculum, before sample `until`.

    kinds: kind of scene -> weight. snap_px: pixels of the grid that places and sizes keep to; of several, each scene
    takes one. coloured, sized, tidy: shares of mentions with a colour, of single objects with a size, and of scenes
    with the most usual sizes and places, as Pool has them. least_amplitude: of what moves in clips, above 0.
    """

    scene_weights: dict[str, float]
    grid_px: tuple[int, ...] = (1,)
    coloured_share: float | None = None
    sized_share: float = 0.4
    canonical_share: float = 0.0
    min_amplitude: float = 0.3
    until_position: int | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.scene_weights) - set(SCENE_TYPES):
            raise ValueError(f"unknown kind of scene {sorted(unknown)}; the kinds are {', '.join(SCENE_TYPES)}")


@dataclass(frozen=True)
class StickerSample:
    """One picture of the world and its truth."""

    scene: StickerScene
    text_zh: str
    text_en: str
    size_px: int

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 (size_px, size_px, 3)."""
        return render_scene(self.scene, size_px=self.size_px)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """x, y, width, height of every object, in pixels."""
        return [get_instance_box(item, self.size_px) for item in self.scene.instances]

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (objects, size_px, size_px)."""
        masks = np.zeros((len(self.scene.instances), self.size_px, self.size_px), bool)
        for index, item in enumerate(self.scene.instances):
            x, y, side, _ = get_instance_box(item, self.size_px)
            shown = get_sprite(item.class_id, size_px=side, colour=item.colour)[..., 3] > 127
            masks[:index, y : y + side, x : x + side] &= ~shown  # later objects stand in front
            masks[index, y : y + side, x : x + side] = shown
        return masks


def list_countable_classes() -> list[int]:
    """Objects that can be asked for in numbers."""
    return [thing.id for thing in load_sprite_classes() if list_countable_names(thing)]


class StickerWorld:
    """Samples as a pure function of (seed, position).

    size_px: side of the pictures, a multiple of 8. stages: the curriculum, last one open-ended. split: "train", or
    "held_out" for the combinations of object, background and place that training never shows. objects: ids to draw
    from (None: all).
    """

    def __init__(
        self,
        *,
        size_px: int = CANVAS_PX,
        stages: Sequence[CurriculumStage] = (CurriculumStage(scene_weights=DEFAULT_SCENE_WEIGHTS),),
        split: str = "train",
        class_ids: Sequence[int] | None = None,
    ):
        if split not in ("train", "held_out"):
            raise ValueError(f"split is {split!r}; it must be 'train' or 'held_out'")
        if size_px % 8 or size_px < 32:
            raise ValueError(f"size_px is {size_px}; it must be a multiple of 8 and at least 32")
        self.size_px, self.stages, self.split = size_px, tuple(stages), split
        self.class_ids = list(range(len(load_sprite_classes()))) if class_ids is None else list(class_ids)
        self.countable_class_ids = sorted(set(self.class_ids) & set(list_countable_classes()))

    def get_stage(self, position: int) -> CurriculumStage:
        """The stage of the curriculum that sample `position` belongs to."""
        return next(
            (stage for stage in self.stages if stage.until_position is None or position < stage.until_position),
            self.stages[-1],
        )

    def _sample_scene(self, rng: random.Random, stage: CurriculumStage, grid_px: int) -> StickerScene:
        pool = SceneSampling(
            class_ids=self.class_ids,
            countable_class_ids=self.countable_class_ids,
            coloured_share=stage.coloured_share,
            sized_share=stage.sized_share,
            canonical_share=stage.canonical_share,
        )
        return sample_scene(rng, pool, scene_weights=stage.scene_weights, grid_px=grid_px, split=self.split)

    def get_image_sample(self, seed: int, position: int) -> StickerSample:
        """The sample at `position`; its picture is rendered when `.image` is first read."""
        rng = random.Random((seed << 48) | position)
        stage = self.get_stage(position)
        scene = self._sample_scene(rng, stage, rng.choice(stage.grid_px))
        text_zh, text_en = make_caption_zh(scene, rng), make_caption_en(scene, rng)
        return StickerSample(scene=scene, text_zh=text_zh, text_en=text_en, size_px=self.size_px)

    def get_captioned_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> StickerClip:
        """The clip at `position`, its captions say what moves; frames and truth are rendered when first read."""
        rng = random.Random((seed << 48) | (1 << 47) | position)  # apart from the picture at `position`
        scene, moves = self._sample_moving_scene(rng, position, _group_by_mention, duration_s=(num_frames - 1) / fps)
        firsts = [moves[group[0]] for group in _group_by_mention(scene)]
        motions = [None if move is None else MOTIONS[move.motion] for move in firsts]
        text_zh, text_en = make_motion_caption_zh(scene, motions, rng), make_motion_caption_en(scene, motions, rng)
        return StickerClip(scene, moves, text_zh, text_en, self.size_px, num_frames, fps)

    def get_controlled_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> StickerClip:
        """A clip whose objects move one by one, also those counted together; its captions are the still picture's."""
        rng = random.Random((seed << 48) | (3 << 46) | position)
        duration_s = (num_frames - 1) / fps
        scene, moves = self._sample_moving_scene(
            rng, position, lambda s: [[i] for i in range(len(s.instances))], duration_s=duration_s
        )
        return StickerClip(
            scene, moves, make_caption_zh(scene, rng), make_caption_en(scene, rng), self.size_px, num_frames, fps
        )

    def _sample_moving_scene(
        self,
        rng: random.Random,
        position: int,
        group_instances: Callable[[StickerScene], list[list[int]]],
        *,
        duration_s: float,
    ) -> tuple[StickerScene, tuple[ObjectMotion | None, ...]]:
        """A scene and the moves of its items, which move in the groups that `group` makes of them."""
        stage = self.get_stage(position)
        snap_px = rng.choice(stage.grid_px)
        while True:
            scene = self._sample_scene(rng, stage, snap_px)
            moves = sample_object_motions(
                rng, scene, group_instances(scene), duration_s=duration_s, min_amplitude=stage.min_amplitude
            )
            if moves is not None:
                return scene, moves


def _group_by_mention(scene: StickerScene) -> list[list[int]]:
    """The items of each mention."""
    counts = [mention.count for mention in scene.mentions]
    return [list(range(sum(counts[:index]), sum(counts[: index + 1]))) for index in range(len(counts))]
