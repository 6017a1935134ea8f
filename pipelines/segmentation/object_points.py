"""Choice of the points at which the objects of a prompt lie: clicks all over an image, of which those count that agree.

A click on an object has the mask that every other click on this object has; one on the background has a mask of its
own. So objects are found where the relevance of words, which is coarse, has its peak beside them.
K clicks, M subjects, S side of the segmenter's masks in px; latents are (Y, X).
"""

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.unet import UNetSegmenter

GRID_SIZE = 8  # clicks along each side of the image
STABILITY_LOGIT = 1.0  # a stable mask changes little between this threshold and its negative
MAX_SHARED_FRACTION = 0.3  # of the smaller of two masks: those that share more are of one object


def choose_object_points(segmenter: UNetSegmenter, relevance_map: np.ndarray, counts: list[int]) -> list[Point]:
    """Choose a point in px for each object of the segmenter's image, `counts[m]` of them for subject m.

    relevance_map: (M, Y, X), how much of each position each subject explains, and no other one.
    Returns: fewer points where the masks of objects that touch run into one another.
    """
    side = segmenter.side_px
    centers = (np.arange(GRID_SIZE) + 0.5) * side / GRID_SIZE
    clicks = [Point(x=float(x), y=float(y)) for y in centers for x in centers]
    logits = segmenter.predict_logits(clicks).reshape(len(clicks), -1)
    masks = logits > 0
    at_clicks = masks[:, [int(click.y) * side + int(click.x) for click in clicks]]  # (K, K): mask, click
    areas = masks.sum(axis=1)
    shared = masks.astype(np.float32) @ masks.T.astype(np.float32)
    score = _measure_agreement(at_clicks, shared, areas) * _measure_stability(logits) * at_clicks.diagonal()
    is_same = shared > MAX_SHARED_FRACTION * np.minimum(areas[:, None], areas[None])
    width, height = segmenter.image_size
    is_used, points = np.zeros(len(clicks), bool), []
    for relevance, count in zip(relevance_map, counts, strict=True):
        enlarged = cv2.resize(relevance.clip(min=0), (side, side), interpolation=cv2.INTER_NEAREST).ravel()
        relevance_score = score * (masks @ enlarged) / np.maximum(areas, 1)
        for _ in range(count):
            if is_used.all():
                break
            best = int(np.where(is_used, -1.0, relevance_score).argmax())
            is_used |= is_same[best]
            points.append(Point(x=clicks[best].x * width / side, y=clicks[best].y * height / side))
    return points


def _measure_agreement(at_clicks: np.ndarray, shared: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Measure the mean intersection over union of each mask with those of all clicks in it: (K,)."""
    iou = shared / np.maximum(areas[:, None] + areas[None] - shared, 1)
    return (at_clicks * iou).sum(axis=1) / np.maximum(at_clicks.sum(axis=1), 1)


def _measure_stability(logits: np.ndarray) -> np.ndarray:
    """Measure the root of the intersection over union of each mask at two thresholds: (K,).

    Source: the stability score of Segment Anything (arXiv 2304.02643), Sec. 4.
    """
    certain, possible = (logits > STABILITY_LOGIT).sum(axis=1), (logits > -STABILITY_LOGIT).sum(axis=1)
    return np.sqrt(certain / np.maximum(possible, 1))
