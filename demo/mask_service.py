"""Masks from clicks: one segmenter for each of the last images, apart from the queue of generations.

H height, W width.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.image import check_image_size
from dianjing.pipelines.segmentation.base import Point, Segmenter, check_points
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

SEGMENTER_CACHE_SIZE = 4  # images whose features are kept for further clicks


class MaskService:
    """Predict masks from clicks, one call at a time; the features of the last images are cached."""

    def __init__(self, segmenter_factory: Callable[[], Segmenter] = GrabCutSegmenter):
        self.segmenter_factory = segmenter_factory
        self._lock = threading.Lock()
        self._segmenters: OrderedDict[bytes, Segmenter] = OrderedDict()

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at points (x, y) in pixels of the image.

        A label is true for a point on the object and false for a point outside it.

        Raises: DianjingError for points outside the image, or labels that do not match the points.
        """
        if len(points) != len(labels):
            raise DianjingError("labels_do_not_match_points", labels=len(labels), points=len(points))
        check_image_size(*image.size)
        clicks = [Point(x=x, y=y, positive=bool(label)) for (x, y), label in zip(points, labels, strict=True)]
        check_points(clicks, width=image.width, height=image.height)
        pixels = np.asarray(to_rgb(image))
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        with self._lock:
            if key not in self._segmenters:
                segmenter = self.segmenter_factory()
                segmenter.set_image(pixels)
                self._segmenters[key] = segmenter
            self._segmenters.move_to_end(key)
            while len(self._segmenters) > SEGMENTER_CACHE_SIZE:
                self._segmenters.popitem(last=False)
            return self._segmenters[key].predict(clicks)
