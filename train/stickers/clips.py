"""Clips of the sticker world: a scene whose objects move, and the exact truth of it.

F frames, K objects, S picture side; the canvas of a scene is CANVAS_PX wide, pictures are size_px.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.backgrounds import paint
from dianjing.train.stickers.motions import MOTIONS, Pose
from dianjing.train.stickers.rendering import item_box, lay_over
from dianjing.train.stickers.scenes import CANVAS_PX, Item, Scene

REST = Pose()
TRIES = 8
NEAR = 1.25  # of half a sprite: places whose way back is told


@dataclass(frozen=True, kw_only=True)
class Move:
    """What an object does: MOTIONS[motion] with an amplitude in (0, 1]."""

    motion: int
    amplitude: float

    def pose(self, t: float) -> Pose:
        return MOTIONS[self.motion].pose(t, self.amplitude)


@dataclass(frozen=True)
class Shown:
    """An object in one frame: premultiplied RGBA pixels (h, w, 4) at (x, y), clipped to the picture."""

    pixels: np.ndarray
    x: int
    y: int

    @property
    def where(self) -> tuple[slice, slice]:
        height, width = self.pixels.shape[:2]
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def _centre(item: Item, size_px: int) -> tuple[float, float, int]:
    """Centre and side of an object at rest, in pixels of the picture."""
    x, y, side, _ = item_box(item, size_px)
    return x + side / 2, y + side / 2, side


def show(item: Item, pose: Pose, *, size_px: int) -> Shown:
    """An object in a pose."""
    centre_x, centre_y, side = _centre(item, size_px)
    still = sprite(item.thing, size_px=side, colour=item.colour)
    edge = np.linspace(-1, 1, 9)
    u, v = (part.ravel() for part in np.meshgrid(edge, edge))
    x, y = _scaled(pose, size_px).forward(u, v, side=side)
    left, top = (max(0, int(np.floor(c + offsets.min()))) for c, offsets in ((centre_x, x), (centre_y, y)))
    right, bottom = (min(size_px, int(np.ceil(c + offsets.max()))) for c, offsets in ((centre_x, x), (centre_y, y)))
    columns = np.arange(left, max(left, right), dtype=np.float32) + 0.5 - centre_x
    rows = np.arange(top, max(top, bottom), dtype=np.float32) + 0.5 - centre_y
    if not (columns.size and rows.size):
        return Shown(np.zeros((0, 0, 4), np.uint8), 0, 0)
    u, v = _scaled(pose, size_px).backward(*np.meshgrid(columns, rows), side=side)
    from_x, from_y = (((w + 1) * side / 2 - 0.5).astype(np.float32) for w in (u, v))
    pixels = np.asarray(cv2.remap(still, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
    return Shown(pixels, left, top)


def _scaled(pose: Pose, size_px: int) -> Pose:
    """A pose of the canvas in pixels of the picture."""
    ratio = size_px / CANVAS_PX
    return Pose(**{**vars(pose), "dx": pose.dx * ratio, "dy": pose.dy * ratio})


@dataclass(frozen=True)
class Clip:
    """Frames of a moving scene and their truth. `moves` goes with the scene's items; None stands still."""

    scene: Scene
    moves: tuple[Move | None, ...]
    text_zh: str
    text_en: str
    size_px: int
    num_frames: int
    fps: float

    def poses(self, frame: int) -> list[Pose]:
        return [REST if move is None else move.pose(frame / self.fps) for move in self.moves]

    @cached_property
    def shown(self) -> list[list[Shown]]:
        """Every object of every frame, in z order."""
        return [
            [show(item, pose, size_px=self.size_px) for item, pose in zip(self.scene.items, self.poses(f), strict=True)]
            for f in range(self.num_frames)
        ]

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 (F, S, S, 3)."""
        still = paint(self.scene.background, self.scene.variant, size_px=self.size_px)
        frames = np.repeat(still[None], self.num_frames, axis=0)
        for canvas, objects in zip(frames, self.shown, strict=True):
            for each in objects:
                lay_over(canvas, each.pixels, x=each.x, y=each.y)
        return frames

    @cached_property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (F, K, S, S)."""
        masks = np.zeros((self.num_frames, len(self.scene.items), self.size_px, self.size_px), bool)
        for frame, objects in zip(masks, self.shown, strict=True):
            for index, each in enumerate(objects):
                rows, columns = each.where
                solid = each.pixels[..., 3] > 127
                frame[:index, rows, columns] &= ~solid  # later objects stand in front
                frame[index, rows, columns] = solid
        return masks

    @cached_property
    def flow(self) -> np.ndarray:
        """Where each pixel goes until the next frame, in pixels (x, y): float32 (F - 1, S, S, 2)."""
        flow = np.zeros((self.num_frames - 1, self.size_px, self.size_px, 2), np.float32)
        for frame in range(self.num_frames - 1):
            for index, (item, now, then) in enumerate(
                zip(self.scene.items, self.poses(frame), self.poses(frame + 1), strict=True)
            ):
                rows, columns = np.nonzero(self.masks[frame, index])
                centre_x, centre_y, side = _centre(item, self.size_px)
                x, y = columns + 0.5 - centre_x, rows + 0.5 - centre_y
                u, v = _scaled(now, self.size_px).backward(x, y, side=side)
                to_x, to_y = _scaled(then, self.size_px).forward(u, v, side=side)
                flow[frame, rows, columns] = np.stack([to_x - x, to_y - y], axis=-1)
        return flow

    def ways_back(self, index: int, side: int) -> np.ndarray:
        """From the middle of each of side x side cells to where item `index` had it in the first frame, were it of
        that item: float32 (F, side, side, 2), (x, y) in picture sides. NaN away from the item.
        """
        middles = (np.arange(side) + 0.5) * self.size_px / side
        x, y = (part.ravel() for part in np.meshgrid(middles, middles))
        found = np.full((self.num_frames, side**2, 2), np.nan, np.float32)
        for frame in range(self.num_frames):
            from_x, from_y, inside = self._back(frame, index, x, y)
            found[frame, inside] = np.stack([from_x - x, from_y - y], axis=-1)[inside] / self.size_px
        return found.reshape(self.num_frames, side, side, 2)

    def _back(self, frame: int, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where item `index` had pixels (x, y) of a frame in the first one, and whether that is in its sprite."""
        centre_x, centre_y, side = _centre(self.scene.items[index], self.size_px)
        pose = _scaled(self.poses(frame)[index], self.size_px)
        u, v = pose.backward(x - centre_x, y - centre_y, side=side)
        inside = np.maximum(np.abs(u), np.abs(v)) < NEAR
        return u * side / 2 + centre_x, v * side / 2 + centre_y, inside

    @property
    def strengths(self) -> list[float]:
        """Of each object: mean length of the flow where it is visible, in picture sides a second."""
        length = np.linalg.norm(self.flow, axis=-1)  # (F - 1, S, S)
        masks = self.masks[:-1]
        means = [length[masks[:, k]].mean() if masks[:, k].any() else 0.0 for k in range(masks.shape[1])]
        return [float(mean) * self.fps / self.size_px for mean in means]

    @property
    def phrases(self) -> list[tuple[tuple[str, ...], tuple[str, ...]] | None]:
        """Of each object: phrasings that ask for what it does, Chinese and English; None for what stands still."""
        motions = [None if move is None else MOTIONS[move.motion] for move in self.moves]
        return [None if motion is None else motion.phrasings for motion in motions]

    @property
    def boxes(self) -> list[list[tuple[int, int, int, int] | None]]:
        """x, y, width, height around what is visible, of every frame's objects; None where nothing is."""
        return [[_around(mask) for mask in frame] for frame in self.masks]


def _around(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def stays_in_picture(item: Item, move: Move, *, duration_s: float) -> bool:
    """Whether the middle of an object, four fifths of its side, never leaves the canvas."""
    centre_x, centre_y, side = _centre(item, CANVAS_PX)
    for t in np.linspace(0, duration_s, 9):
        pose = move.pose(float(t))
        reach = 0.4 * side * pose.scale
        for centre, offset in ((centre_x, pose.dx), (centre_y, pose.dy)):
            if not reach <= centre + offset <= CANVAS_PX - reach:
                return False
    return True


def draw_moves(
    rng: random.Random, scene: Scene, groups: Sequence[Sequence[int]], *, duration_s: float, least: float
) -> tuple[Move | None, ...] | None:
    """A move for each item of a scene: some groups of items move, each as one; the others stand still.

    At least one moves; as many as are chosen, each number as likely. least: amplitude. None: one found no room.
    """
    moves: list[Move | None] = [None] * len(scene.items)
    for group in rng.sample(groups, rng.randint(1, len(groups))):
        drawn = (Move(motion=rng.randrange(len(MOTIONS)), amplitude=rng.uniform(least, 1)) for _ in range(TRIES))
        items = [scene.items[index] for index in group]
        fits = (m for m in drawn if all(stays_in_picture(item, m, duration_s=duration_s) for item in items))
        move = next(fits, None)
        if move is None:
            return None
        for index in group:
            moves[index] = move
    return tuple(moves)
