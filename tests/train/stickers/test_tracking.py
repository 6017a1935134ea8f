"""How an object moved is read back from frames, also from blurred and spoilt ones."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import StickerClip
from dianjing.train.stickers.tracking import estimate_motion

WORLD = StickerWorld(size_px=64, stages=[CurriculumStage(scene_weights={"pair": 0.7, "trio": 0.3}, grid_px=(16,))])


def clip_at(position: int) -> tuple[StickerClip, int]:
    """A clip and one of its moving objects."""
    clip = WORLD.get_controlled_clip(3, position, num_frames=8, fps=8.0)
    return clip, next(index for index, move in enumerate(clip.object_motions) if move is not None)


def spoil(frames: np.ndarray, seed: int) -> np.ndarray:
    """Blurred, and stained as a poor decoder would."""
    stains = np.random.default_rng(seed).normal(0, 40, frames.shape)
    spoilt = [cv2.GaussianBlur(frame.astype(float), (0, 0), 1.3) for frame in frames]
    stained = [frame + cv2.GaussianBlur(stain, (0, 0), 2) for frame, stain in zip(spoilt, stains, strict=True)]
    return np.stack(stained).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("position", range(4))
def test_motion_and_amplitude_are_read_from_the_truth_and_from_spoilt_frames(position):
    clip, item = clip_at(position)
    for frames in (clip.frames, spoil(clip.frames, position)):
        tracked = estimate_motion(frames, clip, item)
        assert tracked.motion == clip.object_motions[item].motion
        assert tracked.amplitude == pytest.approx(clip.object_motions[item].amplitude, rel=0.2)


def test_what_stands_still_is_not_said_to_move():
    clip, item = clip_at(0)
    still = replace(clip, object_motions=(*clip.object_motions[:item], None, *clip.object_motions[item + 1 :]))
    assert estimate_motion(spoil(still.frames, 1), clip, item).motion is None
