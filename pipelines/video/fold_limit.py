"""Limit of bends: a part that bends moves so far that the image around its joint stretches, and never folds.

H height, W width; masks are bool (H, W). Positions are in px of the image.
"""

from dataclasses import replace

import cv2
import numpy as np

from dianjing.pipelines.video.image_warp import RegionMotion

MIN_AREA_RATIO = 0.25  # of the area that a place of a bend shows to that of the same motion without a bend
GRID_POINTS = 96  # along the longer side of the image, at which a motion is measured
MAX_FRAMES = 9  # at which it is measured, the last one with them
NUM_ROUNDS = 6


def limit_folds(motion: RegionMotion, mask: np.ndarray) -> RegionMotion:
    """Weaken the bend of a motion until no frame folds: the backward map of what moves keeps its orientation.

    mask: of what moves, in px of the image. A motion that does not fold is returned as it is.
    """
    if motion.bend_weight is None:
        return motion
    num_frames = len(motion.similarities)
    frames = np.unique(np.linspace(0, num_frames - 1, MAX_FRAMES).round().astype(int))
    rigid = replace(motion, bend_weight=None)
    rigid_areas = [measure_areas(rigid, index, mask)[0] for index in frames]
    for _ in range(NUM_ROUNDS):
        lowest = 1.0
        for index, areas in zip(frames, rigid_areas, strict=True):
            bent_areas, is_inside = measure_areas(motion, index, mask)
            lowest = min(lowest, float((bent_areas / np.minimum(areas, 1))[is_inside].min(initial=1.0)))
        if lowest >= MIN_AREA_RATIO:
            break
        factor = (1 - 1.05 * MIN_AREA_RATIO) / (1 - lowest)  # the area is 1 less what the weight's slope takes away
        motion = replace(motion, bend_weight=motion.bend_weight * np.float32(factor))
    return motion


def measure_areas(motion: RegionMotion, frame_index: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure how much of the image each place of a frame shows, at a grid of points, and which ones show the mask.

    Both are (h, w). The first is the determinant of the Jacobian matrix of the backward map: negative at a fold.
    """
    height, width = mask.shape
    step = max(1.0, max(width, height) / GRID_POINTS)
    x, y = np.meshgrid(np.arange(0, width + step, step), np.arange(0, height + step, step))
    sources = motion.map_backward(x, y, frame_index, size=(width, height))
    along = [np.diff(part, axis=1)[:-1] / step for part in sources]
    below = [np.diff(part, axis=0)[:, :-1] / step for part in sources]
    columns, rows = (
        part[:-1, :-1].clip(0, side - 1).astype(int) for part, side in zip(sources, (width, height), strict=True)
    )
    is_inside = cv2.dilate(mask[rows, columns].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return along[0] * below[1] - along[1] * below[0], is_inside
