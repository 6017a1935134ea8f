"""Removal of the background of an image: what its prompt names is found, and cut out with soft edges.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

from typing import Any

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.editing.localization import compute_word_relevance, find_relevant_points
from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.prompting.localization import subtract_other_subjects
from dianjing.pipelines.segmentation.base import Point, Segmenter
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.segmentation.object_points import choose_object_points
from dianjing.pipelines.segmentation.unet import UNetSegmenter
from dianjing.pipelines.transparency.closed_form import estimate_foreground, solve_alpha
from dianjing.pipelines.transparency.mask_refinement import measure_depth, refine_mask

EDGE_FRACTION = 1 / 96  # of the longer side: half the width of the band in which an edge may be soft
MIN_EDGE_PX, MAX_EDGE_PX = 1.1, 8.0
MIN_ALPHA = 0.02  # less is taken for noise


def remove_background(pipe: Any, image: Image.Image, prompt: str, *, segmenter: Segmenter | None = None) -> Image.Image:
    """Cut out what a prompt names: an RGBA image, transparent around it.

    pipe: a pipeline of images. segmenter: None for the model's own, or GrabCut.
    Raises: DianjingError for an image in which nothing is found.
    """
    pixels = np.asarray(check_image(image))
    mask = find_object_mask(pipe, pixels, prompt, segmenter=segmenter)
    return Image.fromarray(cut_out(pixels, refine_mask(pixels, mask)))


def find_object_mask(pipe: Any, image: np.ndarray, prompt: str, *, segmenter: Segmenter | None = None) -> np.ndarray:
    """Find the mask of the objects that a prompt names. Raises: DianjingError if there are none."""
    relevance_map, counts = compute_word_relevance(pipe, Image.fromarray(image), str(pipe.normalize_prompts(prompt)))
    peaks = find_relevant_points(relevance_map, counts, size=(image.shape[1], image.shape[0]))
    segmenters: list[Segmenter] = [segmenter or pipe.unet_segmenter or GrabCutSegmenter(), GrabCutSegmenter()]
    mask = np.zeros(image.shape[:2], bool)
    for each in segmenters:
        each.set_image(image)
        points: list[Point] = []
        if isinstance(each, UNetSegmenter):
            exclusive_map = subtract_other_subjects(relevance_map)
            points = choose_object_points(each, exclusive_map.cpu().float().numpy(), counts)
        if len(points) < len(peaks):
            points += peaks
        for point in points:
            mask |= each.predict([point])
        if mask.any() and not mask.all():
            return mask
    raise DianjingError("transparent_object_not_found", prompt=prompt)


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cut the objects of a mask out of an image: uint8 (H, W, 4), not premultiplied, free of the background's color."""
    edge_px = min(max(EDGE_FRACTION * max(mask.shape), MIN_EDGE_PX), MAX_EDGE_PX)
    inside, outside = measure_depth(mask) > edge_px, measure_depth(~mask) > edge_px
    alpha = solve_alpha(image.astype(np.float64) / 255, mask.astype(np.float64), ~(inside | outside))
    alpha[alpha < MIN_ALPHA] = 0
    foreground = estimate_foreground(image, alpha, inside, outside)
    rgba = np.concatenate([foreground, alpha[..., None]], axis=-1)
    rgba[outside] = 0
    return (rgba * 255).round().astype(np.uint8)
