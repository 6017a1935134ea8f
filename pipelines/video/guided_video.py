"""Regions of an image that move in the video of a published model: the image warped by them guides the pipeline.

F frames, H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.segmentation.base import Region, Segmenter
from dianjing.pipelines.video.published import PublishedVideoOutput, PublishedVideoPipeline
from dianjing.pipelines.video.time_to_move import DEFAULT_T_STRONG, DEFAULT_T_WEAK, MotionGuide
from dianjing.pipelines.video.warped_image import make_warped_image


def animate_regions(
    pipe: PublishedVideoPipeline,
    image: Image.Image | np.ndarray,
    regions: Sequence[Region],
    prompt: str = "",
    *,
    num_frames: int | None = None,
    duration_s: float | None = None,
    fps: float | None = None,
    height: int | None = None,
    width: int | None = None,
    segmenter: Segmenter | None = None,
    strict_background: bool = True,
    t_weak: float = DEFAULT_T_WEAK,
    t_strong: float = DEFAULT_T_STRONG,
    **settings: Any,
) -> PublishedVideoOutput:
    """Generate a video by a published model in which the regions of an image move, each by its phrase or path.

    prompt: by default the motions of the regions. strict_background, t_weak and t_strong are those of `MotionGuide`.
    settings: the other arguments of `PublishedVideoPipeline`.

    Raises: DianjingError for arguments that cannot work, before the video is computed.
    """
    source = check_image(image)
    size = pipe.model.resolve_size(width, height, source.size)
    assert size is not None  # an image has one
    width, height = size
    num_frames = pipe.model.resolve_num_frames(num_frames, duration_s, fps)
    fps = pipe.model.default_fps if fps is None else fps
    warped = make_warped_image(
        source, regions, num_frames=num_frames, fps=fps, width=width, height=height, segmenter=segmenter
    )
    rendered = [warped.frames.render(index) for index in range(num_frames)]
    guide = MotionGuide(
        frames=np.stack([frame for frame, _ in rendered]),
        masks=np.stack([mask for _, mask in rendered]),
        strict_background=strict_background,
        t_weak=t_weak,
        t_strong=t_strong,
    )
    text = prompt or describe_motions(regions)
    first_frame = source if warped.frames.camera is None else Image.fromarray(guide.frames[0])  # a view of the image
    return pipe(text, first_frame, guide, num_frames=num_frames, width=width, height=height, **settings)


def describe_motions(regions: Sequence[Region]) -> str:
    """Describe what regions do by their phrases, for a model that takes a prompt."""
    return ", ".join(region.motion for region in regions if region.motion) or "the object moves"
