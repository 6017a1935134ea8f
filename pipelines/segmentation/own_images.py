"""Segmenter of a model that ships one for its own images: other images are left to GrabCut.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dianjing.pipelines.segmentation.base import MIN_REMAINING_FRACTION, Point, Segmenter, check_points
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

MAX_RUNS = 16  # of the model's segmenter for one mask; further points change nothing


class OwnImageSegmenter:
    """`Segmenter` that has one for images which a model could have generated, and GrabCut for all others.

    The former finds the object at one click; further clicks add and take away objects, and never change the rest.
    """

    def __init__(self, own: Segmenter, is_own_image: Callable[[np.ndarray], bool]):
        self.own, self.is_own_image = own, is_own_image
        self.grabcut = GrabCutSegmenter()

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""
        self.image_size = (image.shape[1], image.shape[0])
        self.is_own = self.is_own_image(image)
        if self.is_own:
            self.own.set_image(image)
        self.grabcut.set_image(image)

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the objects at the points."""
        points = check_points(points, width=self.image_size[0], height=self.image_size[1])
        mask = self._predict_own(points) if self.is_own else None
        return self.grabcut.predict(points) if mask is None else mask

    def _predict_own(self, points: Sequence[Point]) -> np.ndarray | None:
        """Predict a mask click by click; None if nothing is found at the first one."""
        first = next(point for point in points if point.positive)
        mask, num_runs = self.own.predict([first]), 1
        if not mask.any():
            return None
        for point in points:
            if mask[int(point.y), int(point.x)] == point.positive or num_runs == MAX_RUNS:
                continue
            num_runs += 1
            area = self.own.predict([replace(point, positive=True)])
            if point.positive:
                mask = mask | area
                continue
            remaining = mask & ~area
            if remaining.sum() < MIN_REMAINING_FRACTION * mask.sum():
                remaining = mask & self.own.predict([first, point])
            mask = remaining if remaining.any() else mask
        return mask


def make_default_segmenter(pipe: Any) -> Segmenter:
    """Make the segmenter of clicks for a pipeline: GrabCut, and the model's own, if it has one, for its own images."""
    if pipe.unet_segmenter is None:
        return GrabCutSegmenter()
    from PIL import Image

    from dianjing.pipelines.segmentation.unet import UNetSegmenter
    from dianjing.pipelines.video.refinement import can_show_image

    return OwnImageSegmenter(
        UNetSegmenter(pipe.unet_segmenter.unet), lambda image: can_show_image(pipe, Image.fromarray(image))
    )


class DefaultSegmenterMixin:
    """`segmenter` of a pipeline: what makes masks of points, by default that of `make_default_segmenter`."""

    _segmenter: Segmenter | None = None

    @property
    def segmenter(self) -> Segmenter:
        """Return the segmenter that was set, or the default one."""
        if self._segmenter is None:
            self._segmenter = make_default_segmenter(self)
        return self._segmenter

    @segmenter.setter
    def segmenter(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
