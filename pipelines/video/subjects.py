"""Clicks on the subjects of a prompt in an image: what a prompt says that moves is found by the diffusion model.

Latents are C Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from dianjing.pipelines.editing.localization import compute_object_relevance
from dianjing.pipelines.prompting.localization import compute_relevance_map, find_peaks
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt
from dianjing.pipelines.segmentation.base import Point, Segmenter

MIN_MASK_SHARE = 0.002  # of the image; objects that are drawn small cover ten times as much
MAX_MASK_IOU = 0.5  # of two objects; masks of a higher one are of the same object


@dataclass(frozen=True, kw_only=True)
class SubjectClick:
    """A click on a moving subject of a prompt, with the phrase of its motion.

    points: in px of the image, the positive one first and negative ones on the other subjects. relevance: of the image
    at the click to the words of the subject.
    """

    points: list[Point]
    motion: str
    relevance: float


def find_subjects(
    pipe: Any, latents: Tensor, image: np.ndarray, motion_prompt: MotionPrompt, segmenter: Segmenter
) -> list[tuple[SubjectClick, np.ndarray]]:
    """Find the moving subjects of a prompt in an image, uint8 (H, W, 3), of latents (C, Y, X), each with its mask.

    pipe: a video pipeline. No object is found twice: where the image shows one for two subjects, it is the one whose
    words are more relevant there.
    """
    clicks = _find_clicks(pipe, latents, motion_prompt)
    segmenter.set_image(image)
    masks = [segmenter.predict(click.points) for click in clicks]
    indices = select_objects(masks, [click.relevance for click in clicks])
    return [(clicks[index], masks[index]) for index in indices[: pipe.transformer.config.max_regions]]


def select_objects(masks: Sequence[np.ndarray], relevance: Sequence[float]) -> list[int]:
    """Select the indices, in order, of masks (H, W) of different objects: of the same one, the most relevant.

    Masks of next to nothing are left out, unless all are: there the image shows no object.
    """
    selected: list[int] = []
    candidates = [index for index, mask in enumerate(masks) if mask.mean() >= MIN_MASK_SHARE] or range(len(masks))
    for index in sorted(candidates, key=lambda index: -relevance[index]):
        if all(_compute_iou(masks[index], masks[other]) <= MAX_MASK_IOU for other in selected):
            selected.append(index)
    return sorted(selected)


def _compute_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _find_clicks(pipe: Any, latents: Tensor, motion_prompt: MotionPrompt) -> list[SubjectClick]:
    subjects, prompt = motion_prompt.subjects, motion_prompt.static_prompt
    scale = pipe.vae_scale_factor
    size_px = (latents.shape[1] * scale, latents.shape[2] * scale)
    sizes = (*size_px, *size_px, 0, 0)
    relevance_map = None
    if len(subjects) == 1:
        relevance_map = compute_object_relevance(pipe, latents[None], prompt, image_meta_size=sizes)
    if relevance_map is None:
        embeds = pipe.encode_texts([prompt, *(subject.prompt_without for subject in subjects)])
        relevance_map = compute_relevance_map(
            pipe.transformer, pipe.scheduler, latents[None], embeds, image_meta_size=sizes
        )
    peaks_by_subject = find_peaks(relevance_map, [subject.count for subject in subjects])
    points_by_subject = [
        [Point(x=(x + 0.5) * scale, y=(y + 0.5) * scale) for x, y in peaks] for peaks in peaks_by_subject
    ]
    clicks = []
    for index, subject in enumerate(subjects):
        if subject.motion is not None:
            others = [*points_by_subject[:index], *points_by_subject[index + 1 :]]
            negatives = [replace(point, positive=False) for points in others for point in points]
            for point, (column, row) in zip(points_by_subject[index], peaks_by_subject[index], strict=True):
                relevance = float(relevance_map[index, row, column])
                clicks.append(SubjectClick(points=[point, *negatives], motion=subject.motion, relevance=relevance))
    return clicks
