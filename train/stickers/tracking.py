"""Reading of clips: the motion of an object, and its class in any pose, by comparison with everything possible.

F frames, S image side in pixels.
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
REFINEMENTS = (0.8, 0.9, 1.1, 1.25)  # factors of the best amplitude, tried once
MAX_SIZE_PX = 64  # larger frames are reduced to it: all motions at 128 px would take four times as long
BLUR_SIGMA_PX = 1.2
BOX_MARGIN_PX = 4


@dataclass(frozen=True, kw_only=True)
class MotionEstimate:
    """The motion that explains frames best.

    motion: an index of MOTIONS; None for an object at rest. error: mean squared, on 0 to 255.
    """

    motion: int | None
    amplitude: float
    error: float


def estimate_motion(frames: np.ndarray, clip: StickerClip, instance_index: int) -> MotionEstimate:
    """Estimate how one instance of a clip's scene moves in frames (F, S, S, 3); the others move as in the clip.

    The frames and every candidate are blurred a little, so that blur of a model weighs little. The best amplitude of
    every motion, refined once, competes with rest.
    """
    frames, clip = _reduce(frames, clip)
    blurred = _blur(frames)

    def fit(motion: int | None, amplitude: float) -> MotionEstimate:
        candidate = None if motion is None else ObjectMotion(motion=motion, amplitude=amplitude)
        before, after = clip.object_motions[:instance_index], clip.object_motions[instance_index + 1 :]
        rendered = replace(clip, object_motions=(*before, candidate, *after)).frames
        error = float(np.square(_blur(rendered) - blurred).mean())
        return MotionEstimate(motion=motion, amplitude=amplitude if motion is not None else 0.0, error=error)

    estimates = [fit(None, 0.0)]
    for motion in range(len(MOTIONS)):
        fit_amplitude = partial(fit, motion)
        coarse = min(map(fit_amplitude, AMPLITUDES), key=lambda each: each.error)
        refined = (fit_amplitude(min(coarse.amplitude * factor, 1.0)) for factor in REFINEMENTS)
        estimates.append(min([coarse, *refined], key=lambda each: each.error))
    return min(estimates, key=lambda each: each.error)


def classify_sprite(frame: np.ndarray, clip: StickerClip, instance_index: int, frame_index: int) -> int:
    """Find the sprite class that explains a frame (S, S, 3) best at one instance, in the pose that the clip gives it.

    `clip` holds the motions of all instances, also of this one: `estimate_motion` finds it.
    """
    (frame,), clip = _reduce(frame[None], clip)
    poses, size_px = clip.get_poses(frame_index), clip.size_px
    base = render_background(clip.scene.background, clip.scene.variant, size_px=size_px).copy()
    for index, (instance, pose) in enumerate(zip(clip.scene.instances, poses, strict=True)):
        if index != instance_index:
            sprite = render_sprite(instance, pose, size_px=size_px)
            composite_premultiplied(base, sprite.pixels, x=sprite.x, y=sprite.y)
    instance, pose = clip.scene.instances[instance_index], poses[instance_index]
    rows, columns = (
        slice(max(0, each.start - BOX_MARGIN_PX), each.stop + BOX_MARGIN_PX)
        for each in render_sprite(instance, pose, size_px=size_px).slices
    )
    target = _blur(frame[None, rows, columns])

    def measure_error(class_id: int) -> float:
        colour = instance.colour if load_sprite_classes()[class_id].is_colourable else None
        sprite = render_sprite(replace(instance, class_id=class_id, colour=colour), pose, size_px=size_px)
        canvas = base.copy()
        composite_premultiplied(canvas, sprite.pixels, x=sprite.x, y=sprite.y)
        return float(np.square(_blur(canvas[None, rows, columns]) - target).mean())

    return min(range(len(load_sprite_classes())), key=measure_error)


def _reduce(frames: np.ndarray, clip: StickerClip) -> tuple[np.ndarray, StickerClip]:
    """Reduce frames (F, S, S, 3) by averages to at most MAX_SIZE_PX, and the clip that they are compared with."""
    if clip.size_px <= MAX_SIZE_PX:
        return frames, clip
    size = (MAX_SIZE_PX, MAX_SIZE_PX)
    reduced = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    return reduced, replace(clip, size_px=MAX_SIZE_PX)


def _blur(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), BLUR_SIGMA_PX) for frame in frames])
