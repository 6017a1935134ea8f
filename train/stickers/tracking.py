"""Reads out of a clip how an object moved, and what it is in any pose, by comparing with all that could be there.

F frames, S picture side.
"""

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from dianjing.train.stickers.backgrounds import paint
from dianjing.train.stickers.clips import Clip, Move, show
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.objects import things
from dianjing.train.stickers.rendering import lay_over

AMPLITUDES = (0.15, 0.3, 0.5, 0.75, 1.0)
BLUR_PX = 1.2


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What explains the frames best; motion None for standing still. error: mean squared, in levels."""

    motion: int | None
    amplitude: float
    error: float


def track(frames: np.ndarray, clip: Clip, item: int) -> Tracked:
    """How `item` of a clip's scene moves in frames (F, S, S, 3), the others moving as the clip says.

    Both are blurred a little, so that what a model blurs weighs little. The best amplitude of every motion, refined
    once, is compared with standing still.
    """
    blurred = _blur(frames)

    def fit(motion: int | None, amplitude: float) -> Tracked:
        move = None if motion is None else Move(motion=motion, amplitude=amplitude)
        moves = (*clip.moves[:item], move, *clip.moves[item + 1 :])
        error = float(np.square(_blur(replace(clip, moves=moves).frames) - blurred).mean())
        return Tracked(motion=motion, amplitude=amplitude if motion is not None else 0.0, error=error)

    found = [fit(None, 0.0)]
    for motion in range(len(MOTIONS)):
        at = partial(fit, motion)
        coarse = min(map(at, AMPLITUDES), key=lambda t: t.error)
        nearby = (coarse.amplitude * factor for factor in (0.8, 0.9, 1.1, 1.25))
        found.append(min([coarse, *(at(min(a, 1.0)) for a in nearby)], key=lambda t: t.error))
    return min(found, key=lambda t: t.error)


def recognise(frame: np.ndarray, clip: Clip, item: int, at: int) -> int:
    """Which object explains frame `at` (S, S, 3) best where `item` of the scene is, in the pose it has there.

    `clip` says how everything moves, `item` too: `track` finds that out.
    """
    poses, size_px = clip.poses(at), clip.size_px
    base = paint(clip.scene.background, clip.scene.variant, size_px=size_px).copy()
    for index, (other, pose) in enumerate(zip(clip.scene.items, poses, strict=True)):
        if index != item:
            shown = show(other, pose, size_px=size_px)
            lay_over(base, shown.pixels, x=shown.x, y=shown.y)
    asked = clip.scene.items[item]
    rows, columns = (
        slice(max(0, each.start - 4), each.stop + 4) for each in show(asked, poses[item], size_px=size_px).where
    )
    target = _blur(frame[None, rows, columns])

    def error(thing: int) -> float:
        colour = asked.colour if things()[thing].takes_colour else None
        shown = show(replace(asked, thing=thing, colour=colour), poses[item], size_px=size_px)
        canvas = base.copy()
        lay_over(canvas, shown.pixels, x=shown.x, y=shown.y)
        return float(np.square(_blur(canvas[None, rows, columns]) - target).mean())

    return min(range(len(things())), key=error)


def _blur(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), BLUR_PX) for frame in frames])
