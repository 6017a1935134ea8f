"""The background of an image: words that name it, and the mask of it."""

import re
from typing import Any

import numpy as np

from dianjing.pipelines.media.mask import grow_mask
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

RIM_FRACTION = 1 / 64  # of the shorter side: around the objects, whose edges stay whole
BACKGROUND_WORDS = re.compile(r"(?:(?:all|whole|entire|of|the)\s+)*(?:back\s?ground|backdrop)|(?:整个|全部)?背景", re.I)
ARTICLE = re.compile(r"^(?:the|all the)\s+", re.I)


def names_background(pipe: Any, words: str) -> bool:
    """True for words such as "the background" or 背景, and for a background that the model has a name for."""
    words = words.strip().rstrip(".。")
    if BACKGROUND_WORDS.fullmatch(words):
        return True
    vocabulary = pipe.concept_vocabulary
    return vocabulary is not None and vocabulary.find_background(ARTICLE.sub("", words).lower()) is not None


def segment_background(pixels: np.ndarray) -> np.ndarray:
    """Segment what lies around the objects of an image, uint8 (H, W, 3): a mask, bool (H, W)."""
    segmenter = GrabCutSegmenter()
    segmenter.set_image(pixels)
    return ~grow_mask(segmenter.predict_foreground(), radius_px=round(RIM_FRACTION * min(pixels.shape[:2])))
