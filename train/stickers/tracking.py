"""Reads out of a clip how an object moved, and what it is in any pose, by comparing with all that could be there.

F frames, S picture side.
"""

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.stickers.clips import ObjectMotion, StickerClip
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.rendering import composite_premultiplied, render_sprite
from dianjing.train.stickers.sprite_classes import load_sprite_classes

AMPLITUDES = (0.15, 0.3, 0.5, 0.75, 1.0)
BLUR_SIGMA_PX = 1.2


@dataclass(frozen=True, kw_only=True)
class MotionEstimate:
    """What explains the frames best; motion None for standing still. error: mean squared, in levels."""

    motion: int | None
    amplitude: float
    error: float


def estimate_motion(frames: np.ndarray, clip: StickerClip, instance_index: int) -> MotionEstimate:
    """How `item` of a clip's scene moves in frames (F, S, S, 3), the others moving as the clip says.

    Both are blurred a little, so that what a model blurs weighs little. The best amplitude of every motion, refined
    once, is compared with standing still.
    """
    blurred = _blur(frames)

    def fit(motion: int | None, amplitude: float) -> MotionEstimate:
        move = None if motion is None else ObjectMotion(motion=motion, amplitude=amplitude)
        moves = (*clip.object_motions[:instance_index], move, *clip.object_motions[instance_index + 1 :])
        error = float(np.square(_blur(replace(clip, object_motions=moves).frames) - blurred).mean())
        return MotionEstimate(motion=motion, amplitude=amplitude if motion is not None else 0.0, error=error)

    found = [fit(None, 0.0)]
    for motion in range(len(MOTIONS)):
        at = partial(fit, motion)
        coarse = min(map(at, AMPLITUDES), key=lambda t: t.error)
        nearby = (coarse.amplitude * factor for factor in (0.8, 0.9, 1.1, 1.25))
        found.append(min([coarse, *(at(min(a, 1.0)) for a in nearby)], key=lambda t: t.error))
    return min(found, key=lambda t: t.error)


def classify_sprite(frame: np.ndarray, clip: StickerClip, instance_index: int, frame_index: int) -> int:
    """Which object explains frame `at` (S, S, 3) best where `item` of the scene is, in the pose it has there.

    `clip` says how everything moves, `item` too: `track` finds that out.
    """
    poses, size_px = clip.get_poses(frame_index), clip.size_px
    base = render_background(clip.scene.background, clip.scene.variant, size_px=size_px).copy()
    for index, (other, pose) in enumerate(zip(clip.scene.instances, poses, strict=True)):
        if index != instance_index:
            shown = render_sprite(other, pose, size_px=size_px)
            composite_premultiplied(base, shown.pixels, x=shown.x, y=shown.y)
    asked = clip.scene.instances[instance_index]
    rows, columns = (
        slice(max(0, each.start - 4), each.stop + 4)
        for each in render_sprite(asked, poses[instance_index], size_px=size_px).slices
    )
    target = _blur(frame[None, rows, columns])

    def error(thing: int) -> float:
        colour = asked.colour if load_sprite_classes()[thing].is_colourable else None
        shown = render_sprite(replace(asked, class_id=thing, colour=colour), poses[instance_index], size_px=size_px)
        canvas = base.copy()
        composite_premultiplied(canvas, shown.pixels, x=shown.x, y=shown.y)
        return float(np.square(_blur(canvas[None, rows, columns]) - target).mean())

    return min(range(len(load_sprite_classes())), key=error)


def _blur(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), BLUR_SIGMA_PX) for frame in frames])
