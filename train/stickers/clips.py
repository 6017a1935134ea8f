"""Clips of the sticker world: a scene whose objects move, with the exact ground truth of their motion.

F frames, K objects, S image side in pixels (`size_px`), G side of a flow grid. Positions of a scene are pixels of a
canvas that is CANVAS_PX wide.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.motions import MOTIONS, SpritePose
from dianjing.train.stickers.rendering import (
    SpriteFrame,
    composite_premultiplied,
    get_rest_center,
    render_sprite,
    scale_pose,
)
from dianjing.train.stickers.scenes import CANVAS_PX, SpriteInstance, StickerScene

IDENTITY_POSE = SpritePose()
MAX_TRIES = 8  # to find a motion that stays inside the canvas
FLOW_EXTENT = 1.25  # in half sides of a sprite: backward flow is defined for points up to here


@dataclass(frozen=True, kw_only=True)
class ObjectMotion:
    """The motion of one object: MOTIONS[motion] with an amplitude in (0, 1]."""

    motion: int
    amplitude: float

    def get_pose(self, t: float) -> SpritePose:
        """Return the pose at t seconds."""
        return MOTIONS[self.motion].get_pose(t, self.amplitude)


@dataclass(frozen=True)
class StickerClip:
    """A clip of a moving scene, with captions and ground truth; everything is rendered when first accessed.

    object_motions: the motion of each instance of the scene, in its order; None for an object at rest.
    """

    scene: StickerScene
    object_motions: tuple[ObjectMotion | None, ...]
    text_zh: str
    text_en: str
    size_px: int
    num_frames: int
    fps: float

    def get_poses(self, frame_index: int) -> list[SpritePose]:
        """Return the poses of all objects in a frame."""
        t = frame_index / self.fps
        return [IDENTITY_POSE if motion is None else motion.get_pose(t) for motion in self.object_motions]

    @cached_property
    def sprite_frames(self) -> list[list[SpriteFrame]]:
        """The posed sprite of every object in every frame (F x K), in z order."""
        return [
            [
                render_sprite(instance, pose, size_px=self.size_px)
                for instance, pose in zip(self.scene.instances, self.get_poses(frame_index), strict=True)
            ]
            for frame_index in range(self.num_frames)
        ]

    @cached_property
    def frames(self) -> np.ndarray:
        """The frames, uint8 (F, S, S, 3)."""
        background = render_background(self.scene.background, self.scene.variant, size_px=self.size_px)
        frames = np.repeat(background[None], self.num_frames, axis=0)
        for canvas, sprites in zip(frames, self.sprite_frames, strict=True):
            for sprite in sprites:
                composite_premultiplied(canvas, sprite.pixels, x=sprite.x, y=sprite.y)
        return frames

    @cached_property
    def masks(self) -> np.ndarray:
        """The visible region of each object in each frame, bool (F, K, S, S)."""
        masks = np.zeros((self.num_frames, len(self.scene.instances), self.size_px, self.size_px), bool)
        for frame_masks, sprites in zip(masks, self.sprite_frames, strict=True):
            for index, sprite in enumerate(sprites):
                rows, columns = sprite.slices
                is_solid = sprite.pixels[..., 3] > 127
                frame_masks[:index, rows, columns] &= ~is_solid  # later objects stand in front
                frame_masks[index, rows, columns] = is_solid
        return masks

    @cached_property
    def forward_flow(self) -> np.ndarray:
        """Displacement of each pixel to the next frame, (x, y) in pixels: float32 (F - 1, S, S, 2)."""
        flow = np.zeros((self.num_frames - 1, self.size_px, self.size_px, 2), np.float32)
        for frame_index in range(self.num_frames - 1):
            poses, next_poses = self.get_poses(frame_index), self.get_poses(frame_index + 1)
            for index, instance in enumerate(self.scene.instances):
                rows, columns = np.nonzero(self.masks[frame_index, index])
                center_x, center_y, side = get_rest_center(instance, self.size_px)
                x, y = columns + 0.5 - center_x, rows + 0.5 - center_y
                u, v = scale_pose(poses[index], self.size_px).map_backward(x, y, side_px=side)
                next_x, next_y = scale_pose(next_poses[index], self.size_px).map_forward(u, v, side_px=side)
                flow[frame_index, rows, columns] = np.stack([next_x - x, next_y - y], axis=-1)
        return flow

    def get_backward_flow(self, instance_index: int, grid_size: int) -> np.ndarray:
        """Compute the backward flow of one object to the first frame, at the centres of a grid.

        Returns: float32 (F, G, G, 2); G is `grid_size`. The displacement is (x, y) in image sides, NaN outside the
        sprite and a margin around it.
        """
        centers = (np.arange(grid_size) + 0.5) * self.size_px / grid_size
        x, y = (part.ravel() for part in np.meshgrid(centers, centers))
        flow = np.full((self.num_frames, grid_size**2, 2), np.nan, np.float32)
        for frame_index in range(self.num_frames):
            from_x, from_y, is_inside = self._map_to_first_frame(frame_index, instance_index, x, y)
            flow[frame_index, is_inside] = np.stack([from_x - x, from_y - y], axis=-1)[is_inside] / self.size_px
        return flow.reshape(self.num_frames, grid_size, grid_size, 2)

    def _map_to_first_frame(
        self, frame_index: int, instance_index: int, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Map pixels (x, y) of a frame to the first frame as points of one object; also, which lie in its extent."""
        center_x, center_y, side = get_rest_center(self.scene.instances[instance_index], self.size_px)
        pose = scale_pose(self.get_poses(frame_index)[instance_index], self.size_px)
        u, v = pose.map_backward(x - center_x, y - center_y, side_px=side)
        is_inside = np.maximum(np.abs(u), np.abs(v)) < FLOW_EXTENT
        return u * side / 2 + center_x, v * side / 2 + center_y, is_inside

    @property
    def strengths(self) -> list[float]:
        """The mean length of the flow where each object is visible, in image sides per second."""
        lengths = np.linalg.norm(self.forward_flow, axis=-1)  # (F - 1, S, S)
        masks = self.masks[:-1]
        means = [lengths[masks[:, k]].mean() if masks[:, k].any() else 0.0 for k in range(masks.shape[1])]
        return [float(mean) * self.fps / self.size_px for mean in means]

    @property
    def motion_phrases(self) -> list[tuple[tuple[str, ...], tuple[str, ...]] | None]:
        """The phrases that request the motion of each object, Chinese and English; None for an object at rest."""
        return [None if motion is None else MOTIONS[motion.motion].paraphrases for motion in self.object_motions]

    @property
    def boxes(self) -> list[list[tuple[int, int, int, int] | None]]:
        """The box (x, y, width, height) of the visible region of each object in each frame; None if it is empty."""
        return [[_get_bounding_box(mask) for mask in frame_masks] for frame_masks in self.masks]


def _get_bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def is_inside_canvas(instance: SpriteInstance, object_motion: ObjectMotion, *, duration_s: float) -> bool:
    """Check that the inner four fifths of a moving object never leave the canvas."""
    center_x, center_y, side = get_rest_center(instance, CANVAS_PX)
    for t in np.linspace(0, duration_s, 9):
        pose = object_motion.get_pose(float(t))
        extent = 0.4 * side * pose.scale
        for center, offset in ((center_x, pose.dx), (center_y, pose.dy)):
            if not extent <= center + offset <= CANVAS_PX - extent:
                return False
    return True


def sample_object_motions(
    rng: random.Random, scene: StickerScene, groups: Sequence[Sequence[int]], *, duration_s: float, min_amplitude: float
) -> tuple[ObjectMotion | None, ...] | None:
    """Sample a motion for some groups of a scene's instances; the instances of a group share it, the others rest.

    The number of moving groups is uniform, at least one. min_amplitude: above 0; the maximum is 1.
    Returns: one motion or None per instance; None in place of the tuple if a group finds no motion that stays inside.
    """
    motions: list[ObjectMotion | None] = [None] * len(scene.instances)
    for group in rng.sample(groups, rng.randint(1, len(groups))):
        candidates = (
            ObjectMotion(motion=rng.randrange(len(MOTIONS)), amplitude=rng.uniform(min_amplitude, 1))
            for _ in range(MAX_TRIES)
        )
        instances = [scene.instances[index] for index in group]
        fitting = (m for m in candidates if all(is_inside_canvas(each, m, duration_s=duration_s) for each in instances))
        motion = next(fitting, None)
        if motion is None:
            return None
        for index in group:
            motions[index] = motion
    return tuple(motions)
