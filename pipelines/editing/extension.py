"""Outpainting: a larger canvas around an image, and the mask of what is new on it.

H height, W width; images are RGB, masks bool (H, W).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import check_image_size
from dianjing.pipelines.validation import MAX_SIDE_PX, check_int

SIDES = ("left", "top", "right", "bottom")
SIDE_PATTERN = re.compile(r"\s*([a-z]+)\s*=\s*(\d{1,9})\s*")


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Pixels to add at each side of an image.

    Raises: DianjingError for a number that is not from 0 to MAX_SIDE_PX, and for no pixel at all.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for side in SIDES:
            object.__setattr__(self, side, check_int(getattr(self, side), side, low=0, high=MAX_SIDE_PX))
        if not any(vars(self).values()):
            raise DianjingError("extension_empty")

    def split(self, size: tuple[int, int]) -> list["Extension"]:
        """Split into extensions of one side each, by at most half of the shorter side of an image of `size`.

        One after another they give the same canvas, and each leaves a square around it half of which is known.
        """
        step, parts = max(1, min(size) // 2), []
        for side in SIDES:
            pixels = getattr(self, side)
            while pixels > 0:
                parts.append(Extension(**{side: min(step, pixels)}))
                pixels -= step
        return parts

    def apply(self, image: Image.Image) -> tuple[Image.Image, np.ndarray]:
        """Place an image on the larger canvas, its border repeated outwards, and return both and the mask of the rest.

        Raises: DianjingError for a canvas that is too large or too narrow.
        """
        width, height = self.left + image.width + self.right, self.top + image.height + self.bottom
        check_image_size(width, height)
        borders = (self.top, self.bottom, self.left, self.right)
        canvas = cv2.copyMakeBorder(np.asarray(image), *borders, cv2.BORDER_REPLICATE)
        mask = np.ones((height, width), bool)
        mask[self.top : self.top + image.height, self.left : self.left + image.width] = False
        return Image.fromarray(canvas), mask


def parse_extension(texts: Sequence[str]) -> Extension:
    """Parse texts such as "left=64" or "left=64,top=32". Raises: DianjingError for anything else."""
    pixels: dict[str, int] = {}
    for part in ",".join(texts).split(","):
        match = SIDE_PATTERN.fullmatch(part)
        if match is None or match[1] not in SIDES or match[1] in pixels:
            raise DianjingError("extension_malformed", value=ascii(part)[:60], allowed=list(SIDES))
        pixels[match[1]] = int(match[2])
    return Extension(**pixels)
