"""Clicks to masks, never behind a generation.

H height, W width.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from dianjing.pipelines.fitting import as_rgb, check_picture_size
from dianjing.pipelines.segmenting import GrabCut, Point, Segmenter, check_points

LOOKED_AT = 4  # pictures whose clicks are answered without looking again


class Masks:
    """One click after the other; a picture is looked at once."""

    def __init__(self, make_segmenter: Callable[[], Segmenter] = GrabCut):
        self.make_segmenter = make_segmenter
        self._lock = threading.Lock()
        self._looked: OrderedDict[bytes, Segmenter] = OrderedDict()

    def mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """What clicks at (x, y) mean: bool (H, W) of the picture. A label is true for what is meant, else false.

        Raises: ValueError for points that are none of the picture's.
        """
        if len(points) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(points)} points; give one for each")
        check_picture_size(*image.size)
        clicks = [Point(x=x, y=y, positive=bool(label)) for (x, y), label in zip(points, labels, strict=True)]
        check_points(clicks, width=image.width, height=image.height)
        pixels = np.asarray(as_rgb(image))
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        with self._lock:
            if key not in self._looked:
                segmenter = self.make_segmenter()
                segmenter.look(pixels)
                self._looked[key] = segmenter
            self._looked.move_to_end(key)
            while len(self._looked) > LOOKED_AT:
                self._looked.popitem(last=False)
            return self._looked[key].mask(clicks)
