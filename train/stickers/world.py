"""The sticker world: endless images and clips with bilingual captions and ground truth, by seed and position."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from dianjing.errors import DianjingError
from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.captions import (
    list_countable_names,
    make_caption_en,
    make_caption_zh,
    make_motion_caption_en,
    make_motion_caption_zh,
)
from dianjing.train.stickers.choices import Interval, list_choice_intervals
from dianjing.train.stickers.clips import ObjectMotion, StickerClip, sample_object_motions
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.rendering import get_instance_box, measure_contrast, render_scene
from dianjing.train.stickers.scenes import CANVAS_PX, SCENE_TYPES, SceneSampling, StickerScene, sample_scene
from dianjing.train.stickers.sprite_classes import load_sprite_classes

DEFAULT_SCENE_WEIGHTS = {"single": 0.4, "count": 0.2, "pair": 0.28, "trio": 0.12}
MIN_SIZE_PX = 32
CONTRAST_SIZE_PX = 32  # of images whose contrast is measured


@dataclass(frozen=True, kw_only=True)
class CurriculumStage:
    """A stage of the curriculum, up to sample `until_position` (None: to the end).

    scene_weights: scene type -> weight. grid_px: grids of positions and sizes; each scene takes one of them.
    coloured_share, sized_share, canonical_share: as in SceneSampling. low_contrast_share: of images, the share that
    takes of two scenes of a type the one in which an object has less contrast. min_amplitude: of motions in clips,
    above 0.

    Raises: DianjingError for an unknown scene type.
    """

    scene_weights: dict[str, float]
    grid_px: tuple[int, ...] = (1,)
    coloured_share: float | None = None
    sized_share: float = 0.4
    canonical_share: float = 0.0
    low_contrast_share: float = 0.0
    min_amplitude: float = 0.3
    until_position: int | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.scene_weights) - set(SCENE_TYPES)):
            raise DianjingError("unknown_scene_types", unknown=unknown, allowed=list(SCENE_TYPES))


@dataclass(frozen=True)
class StickerSample:
    """An image of the sticker world with its captions and its ground truth.

    K objects, S image side in pixels (`size_px`).
    """

    scene: StickerScene
    text_zh: str
    text_en: str
    size_px: int

    @cached_property
    def image(self) -> np.ndarray:
        """The image, uint8 (S, S, 3); rendered when first accessed."""
        return render_scene(self.scene, size_px=self.size_px)

    @property
    def choice_intervals(self) -> tuple[Interval, ...]:
        """The option of the scene for each choice that its captions leave open, as an interval of [0, 1)."""
        return list_choice_intervals(self.scene)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """The box (x, y, width, height) of every object, in pixels."""
        return [get_instance_box(instance, self.size_px) for instance in self.scene.instances]

    @property
    def masks(self) -> np.ndarray:
        """The visible region of each object, bool (K, S, S)."""
        masks = np.zeros((len(self.scene.instances), self.size_px, self.size_px), bool)
        for index, instance in enumerate(self.scene.instances):
            x, y, side, _ = get_instance_box(instance, self.size_px)
            is_solid = get_sprite(instance.class_id, size_px=side, colour=instance.colour)[..., 3] > 127
            masks[:index, y : y + side, x : x + side] &= ~is_solid  # later objects stand in front
            masks[index, y : y + side, x : x + side] = is_solid
        return masks


def list_countable_classes() -> list[int]:
    """List the ids of the sprite classes that captions may count."""
    return [each.id for each in load_sprite_classes() if list_countable_names(each)]


class StickerWorld:
    """A sample source: images and clips as pure functions of (seed, position).

    size_px: side of the images, a multiple of 8 and at least 32. stages: the curriculum; the last stage has no end.
    split: "train", or "held_out" for combinations of object, background and cell that training never shows.
    class_ids: the sprite classes to sample from; None: all.

    Raises: DianjingError for another size or split.
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
            raise DianjingError("unknown_split", split=split)
        if size_px % 8 or size_px < MIN_SIZE_PX:
            raise DianjingError("sticker_size_not_multiple", size_px=size_px, minimum=MIN_SIZE_PX)
        self.size_px, self.stages, self.split = size_px, tuple(stages), split
        self.class_ids = list(range(len(load_sprite_classes()))) if class_ids is None else list(class_ids)
        self.countable_class_ids = sorted(set(self.class_ids) & set(list_countable_classes()))

    def get_stage(self, position: int) -> CurriculumStage:
        """Return the stage of the curriculum at a position."""
        return next(
            (stage for stage in self.stages if stage.until_position is None or position < stage.until_position),
            self.stages[-1],
        )

    def get_image_sample(self, seed: int, position: int) -> StickerSample:
        """Return the image sample at a position."""
        rng = random.Random((seed << 48) | position)
        stage = self.get_stage(position)
        grid_px = rng.choice(stage.grid_px)
        if stage.low_contrast_share > 0 and rng.random() < stage.low_contrast_share:
            scene = self._sample_low_contrast_scene(rng, stage, grid_px)
        else:
            scene = self._sample_scene(rng, stage, grid_px)
        text_zh, text_en = make_caption_zh(scene, rng), make_caption_en(scene, rng)
        return StickerSample(scene=scene, text_zh=text_zh, text_en=text_en, size_px=self.size_px)

    def get_captioned_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> StickerClip:
        """Return the clip at a position whose captions name the motions; objects that are counted move together."""
        rng = random.Random((seed << 48) | (1 << 47) | position)  # another stream than that of images
        duration_s = (num_frames - 1) / fps
        scene, object_motions = self._sample_moving_scene(rng, position, _group_by_mention, duration_s=duration_s)
        of_mentions = [object_motions[group[0]] for group in _group_by_mention(scene)]
        motions = [None if motion is None else MOTIONS[motion.motion] for motion in of_mentions]
        text_zh, text_en = make_motion_caption_zh(scene, motions, rng), make_motion_caption_en(scene, motions, rng)
        return StickerClip(scene, object_motions, text_zh, text_en, self.size_px, num_frames, fps)

    def get_controlled_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> StickerClip:
        """Return the clip at a position whose objects move one by one; its captions name no motion."""
        rng = random.Random((seed << 48) | (3 << 46) | position)
        duration_s = (num_frames - 1) / fps
        scene, object_motions = self._sample_moving_scene(rng, position, _group_by_instance, duration_s=duration_s)
        text_zh, text_en = make_caption_zh(scene, rng), make_caption_en(scene, rng)
        return StickerClip(scene, object_motions, text_zh, text_en, self.size_px, num_frames, fps)

    def _sample_scene(self, rng: random.Random, stage: CurriculumStage, grid_px: int) -> StickerScene:
        sampling = SceneSampling(
            class_ids=self.class_ids,
            countable_class_ids=self.countable_class_ids,
            coloured_share=stage.coloured_share,
            sized_share=stage.sized_share,
            canonical_share=stage.canonical_share,
        )
        return sample_scene(rng, sampling, scene_weights=stage.scene_weights, grid_px=grid_px, split=self.split)

    def _sample_low_contrast_scene(self, rng: random.Random, stage: CurriculumStage, grid_px: int) -> StickerScene:
        """Sample two scenes of one type, and return the one in which an object has less contrast."""
        (scene_type,) = rng.choices(list(stage.scene_weights), list(stage.scene_weights.values()))
        of_one_type = replace(stage, scene_weights={scene_type: 1.0})
        scenes = [self._sample_scene(rng, of_one_type, grid_px) for _ in range(2)]
        return min(scenes, key=partial(measure_contrast, size_px=CONTRAST_SIZE_PX))

    def _sample_moving_scene(
        self,
        rng: random.Random,
        position: int,
        group_instances: Callable[[StickerScene], list[list[int]]],
        *,
        duration_s: float,
    ) -> tuple[StickerScene, tuple[ObjectMotion | None, ...]]:
        """Sample scenes until the groups that `group_instances` makes of one find motions that stay inside."""
        stage = self.get_stage(position)
        grid_px = rng.choice(stage.grid_px)
        while True:
            scene = self._sample_scene(rng, stage, grid_px)
            object_motions = sample_object_motions(
                rng, scene, group_instances(scene), duration_s=duration_s, min_amplitude=stage.min_amplitude
            )
            if object_motions is not None:
                return scene, object_motions


def _group_by_mention(scene: StickerScene) -> list[list[int]]:
    """Group the instances of a scene by the mention that they belong to."""
    counts = [mention.count for mention in scene.mentions]
    return [list(range(sum(counts[:index]), sum(counts[: index + 1]))) for index in range(len(counts))]


def _group_by_instance(scene: StickerScene) -> list[list[int]]:
    """Make a group of each instance."""
    return [[index] for index in range(len(scene.instances))]
