"""Reads out of a clip how an object moved: by comparing it with that object moving in every way it could.

F frames, S picture side.
"""

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from dianjing.train.stickers.clips import Clip, Move
from dianjing.train.stickers.motions import MOTIONS

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


def _blur(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), BLUR_PX) for frame in frames])
