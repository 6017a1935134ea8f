"""Motion of an object is estimated from frames, also from blurred and noisy ones."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import StickerClip
from dianjing.train.stickers.tracking import estimate_motion

WORLD = StickerWorld(size_px=64, stages=[CurriculumStage(scene_weights={"pair": 0.7, "trio": 0.3}, grid_px=(16,))])


def get_clip(position: int) -> tuple[StickerClip, int]:
    """A clip, and the index of its first moving object."""
    clip = WORLD.get_controlled_clip(3, position, num_frames=8, fps=8.0)
    return clip, next(i for i, motion in enumerate(clip.object_motions) if motion is not None)


def disturb(frames: np.ndarray, seed: int) -> np.ndarray:
    """Blur the frames and add smooth noise, as a poor decoder would."""
    noise = np.random.default_rng(seed).normal(0, 40, frames.shape)
    blurred = [cv2.GaussianBlur(frame.astype(float), (0, 0), 1.3) for frame in frames]
    noisy = [frame + cv2.GaussianBlur(each, (0, 0), 2) for frame, each in zip(blurred, noise, strict=True)]
    return np.stack(noisy).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("position", range(4))
def test_motion_and_amplitude_are_estimated_from_exact_and_from_disturbed_frames(position):
    clip, index = get_clip(position)
    for frames in (clip.frames, disturb(clip.frames, position)):
        estimate = estimate_motion(frames, clip, index)
        assert estimate.motion == clip.object_motions[index].motion
        assert estimate.amplitude == pytest.approx(clip.object_motions[index].amplitude, rel=0.2)


def test_an_object_at_rest_is_estimated_at_rest():
    clip, index = get_clip(0)
    at_rest = replace(clip, object_motions=(*clip.object_motions[:index], None, *clip.object_motions[index + 1 :]))
    assert estimate_motion(disturb(at_rest.frames, 1), clip, index).motion is None
