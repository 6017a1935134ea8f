"""Clicks on the subjects of a prompt in an image: what a prompt says that moves is found by the diffusion model.

Latents are C Y X.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from dianjing.pipelines.prompting.localization import compute_relevance_map, find_peaks
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt
from dianjing.pipelines.segmentation.base import Point


def find_subject_clicks(pipe: Any, latents: Tensor, motion_prompt: MotionPrompt) -> list[tuple[list[Point], str]]:
    """Find the moving subjects of a prompt in an image of latents (C, Y, X).

    pipe: a video pipeline. Each result is the points of one click in px of the decoded image, the positive one first
    and negative ones on the other subjects, and the phrase of its motion.
    """
    subjects = motion_prompt.subjects
    embeds = pipe.encode_texts([motion_prompt.static_prompt, *(subject.prompt_without for subject in subjects)])
    scale = pipe.vae_scale_factor
    size_px = (latents.shape[1] * scale, latents.shape[2] * scale)
    relevance_map = compute_relevance_map(
        pipe.transformer, pipe.scheduler, latents[None], embeds, image_meta_size=(*size_px, *size_px, 0, 0)
    )
    points_by_subject = [
        [Point(x=(x + 0.5) * scale, y=(y + 0.5) * scale) for x, y in peaks]
        for peaks in find_peaks(relevance_map, [subject.count for subject in subjects])
    ]
    clicks = []
    for index, subject in enumerate(subjects):
        if subject.motion is not None:
            others = [*points_by_subject[:index], *points_by_subject[index + 1 :]]
            negatives = [replace(point, positive=False) for points in others for point in points]
            clicks += [([point, *negatives], subject.motion) for point in points_by_subject[index]]
    return clicks
