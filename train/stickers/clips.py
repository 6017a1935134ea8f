"""Clips of the sticker world: a scene whose objects move, and the exact truth of it.

F frames, K objects, S picture side; the canvas of a scene is CANVAS_PX wide, pictures are size_px.
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
MAX_TRIES = 8
FLOW_EXTENT = 1.25  # of half a sprite: places whose way back is told


@dataclass(frozen=True, kw_only=True)
class ObjectMotion:
    """What an object does: MOTIONS[motion] with an amplitude in (0, 1]."""

    motion: int
    amplitude: float

    def get_pose(self, t: float) -> SpritePose:
        return MOTIONS[self.motion].get_pose(t, self.amplitude)


@dataclass(frozen=True)
class StickerClip:
    """Frames of a moving scene and their truth. `moves` goes with the scene's items; None stands still."""

    scene: StickerScene
    object_motions: tuple[ObjectMotion | None, ...]
    text_zh: str
    text_en: str
    size_px: int
    num_frames: int
    fps: float

    def get_poses(self, frame_index: int) -> list[SpritePose]:
        return [
            IDENTITY_POSE if move is None else move.get_pose(frame_index / self.fps) for move in self.object_motions
        ]

    @cached_property
    def sprite_frames(self) -> list[list[SpriteFrame]]:
        """Every object of every frame, in z order."""
        return [
            [
                render_sprite(item, pose, size_px=self.size_px)
                for item, pose in zip(self.scene.instances, self.get_poses(f), strict=True)
            ]
            for f in range(self.num_frames)
        ]

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 (F, S, S, 3)."""
        still = render_background(self.scene.background, self.scene.variant, size_px=self.size_px)
        frames = np.repeat(still[None], self.num_frames, axis=0)
        for canvas, objects in zip(frames, self.sprite_frames, strict=True):
            for each in objects:
                composite_premultiplied(canvas, each.pixels, x=each.x, y=each.y)
        return frames

    @cached_property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (F, K, S, S)."""
        masks = np.zeros((self.num_frames, len(self.scene.instances), self.size_px, self.size_px), bool)
        for frame, objects in zip(masks, self.sprite_frames, strict=True):
            for index, each in enumerate(objects):
                rows, columns = each.slices
                solid = each.pixels[..., 3] > 127
                frame[:index, rows, columns] &= ~solid  # later objects stand in front
                frame[index, rows, columns] = solid
        return masks

    @cached_property
    def forward_flow(self) -> np.ndarray:
        """Where each pixel goes until the next frame, in pixels (x, y): float32 (F - 1, S, S, 2)."""
        flow = np.zeros((self.num_frames - 1, self.size_px, self.size_px, 2), np.float32)
        for frame in range(self.num_frames - 1):
            for index, (item, now, then) in enumerate(
                zip(self.scene.instances, self.get_poses(frame), self.get_poses(frame + 1), strict=True)
            ):
                rows, columns = np.nonzero(self.masks[frame, index])
                centre_x, centre_y, side = get_rest_center(item, self.size_px)
                x, y = columns + 0.5 - centre_x, rows + 0.5 - centre_y
                u, v = scale_pose(now, self.size_px).map_backward(x, y, side_px=side)
                to_x, to_y = scale_pose(then, self.size_px).map_forward(u, v, side_px=side)
                flow[frame, rows, columns] = np.stack([to_x - x, to_y - y], axis=-1)
        return flow

    def get_backward_flow(self, instance_index: int, grid_size: int) -> np.ndarray:
        """From the middle of each of side x side cells to where item `instance_index` had it in the first frame, were it of
        that item: float32 (F, side, side, 2), (x, y) in picture sides. NaN away from the item.
        """
        middles = (np.arange(grid_size) + 0.5) * self.size_px / grid_size
        x, y = (part.ravel() for part in np.meshgrid(middles, middles))
        found = np.full((self.num_frames, grid_size**2, 2), np.nan, np.float32)
        for frame in range(self.num_frames):
            from_x, from_y, inside = self._map_to_first_frame(frame, instance_index, x, y)
            found[frame, inside] = np.stack([from_x - x, from_y - y], axis=-1)[inside] / self.size_px
        return found.reshape(self.num_frames, grid_size, grid_size, 2)

    def _map_to_first_frame(
        self, frame_index: int, instance_index: int, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where item `index` had pixels (x, y) of a frame in the first one, and whether that is in its sprite."""
        centre_x, centre_y, side = get_rest_center(self.scene.instances[instance_index], self.size_px)
        pose = scale_pose(self.get_poses(frame_index)[instance_index], self.size_px)
        u, v = pose.map_backward(x - centre_x, y - centre_y, side_px=side)
        inside = np.maximum(np.abs(u), np.abs(v)) < FLOW_EXTENT
        return u * side / 2 + centre_x, v * side / 2 + centre_y, inside

    @property
    def strengths(self) -> list[float]:
        """Of each object: mean length of the flow where it is visible, in picture sides a second."""
        length = np.linalg.norm(self.forward_flow, axis=-1)  # (F - 1, S, S)
        masks = self.masks[:-1]
        means = [length[masks[:, k]].mean() if masks[:, k].any() else 0.0 for k in range(masks.shape[1])]
        return [float(mean) * self.fps / self.size_px for mean in means]

    @property
    def motion_phrases(self) -> list[tuple[tuple[str, ...], tuple[str, ...]] | None]:
        """Of each object: phrasings that ask for what it does, Chinese and English; None for what stands still."""
        motions = [None if move is None else MOTIONS[move.motion] for move in self.object_motions]
        return [None if motion is None else motion.paraphrases for motion in motions]

    @property
    def boxes(self) -> list[list[tuple[int, int, int, int] | None]]:
        """x, y, width, height around what is visible, of every frame's objects; None where nothing is."""
        return [[_get_bounding_box(mask) for mask in frame] for frame in self.masks]


def _get_bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def is_inside_canvas(instance: SpriteInstance, object_motion: ObjectMotion, *, duration_s: float) -> bool:
    """Whether the middle of an object, four fifths of its side, never leaves the canvas."""
    centre_x, centre_y, side = get_rest_center(instance, CANVAS_PX)
    for t in np.linspace(0, duration_s, 9):
        pose = object_motion.get_pose(float(t))
        reach = 0.4 * side * pose.scale
        for centre, offset in ((centre_x, pose.dx), (centre_y, pose.dy)):
            if not reach <= centre + offset <= CANVAS_PX - reach:
                return False
    return True


def sample_object_motions(
    rng: random.Random, scene: StickerScene, groups: Sequence[Sequence[int]], *, duration_s: float, min_amplitude: float
) -> tuple[ObjectMotion | None, ...] | None:
    """A move for each item of a scene: some groups of items move, each as one; the others stand still.

    At least one moves; as many as are chosen, each number as likely. least: amplitude. None: one found no room.
    """
    moves: list[ObjectMotion | None] = [None] * len(scene.instances)
    for group in rng.sample(groups, rng.randint(1, len(groups))):
        drawn = (
            ObjectMotion(motion=rng.randrange(len(MOTIONS)), amplitude=rng.uniform(min_amplitude, 1))
            for _ in range(MAX_TRIES)
        )
        items = [scene.instances[index] for index in group]
        fits = (m for m in drawn if all(is_inside_canvas(item, m, duration_s=duration_s) for item in items))
        move = next(fits, None)
        if move is None:
            return None
        for index in group:
            moves[index] = move
    return tuple(moves)
