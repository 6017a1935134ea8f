"""The segmenter of a job, and the image with the job's regions marked."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dianjing.pipelines.media.atomic import write_atomic
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.segmentation.base import Segmenter, predict_masks
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter

if TYPE_CHECKING:
    from dianjing.cli.video_job import VideoJob

MASK_COLOURS = ((255, 64, 64), (64, 128, 255), (64, 200, 64))  # of the regions
MASK_OPACITY = 0.55


def load_segmenter(sam_model: str | None) -> Segmenter | None:
    """Load the SAM model of a folder or Hub id; None without one: for the default of the pipeline."""
    if sam_model is None:
        return None
    from dianjing.pipelines.segmentation.sam import SamSegmenter

    return SamSegmenter.from_pretrained(sam_model)


def write_mask_preview(job: "VideoJob", segmenter: Segmenter | None) -> Path:
    """Write the image with every region tinted in its own colour, and return the path. segmenter: None for GrabCut."""
    assert job.image_path is not None
    assert job.mask_preview_path is not None
    image = np.asarray(open_image(job.image_path))
    masks = predict_masks(image, job.regions, segmenter or GrabCutSegmenter())
    preview = image.astype(np.float32)
    for index, mask in enumerate(masks):
        colour = np.array(MASK_COLOURS[index % len(MASK_COLOURS)], np.float32)
        preview[mask] = (1 - MASK_OPACITY) * preview[mask] + MASK_OPACITY * colour
    write_atomic(job.mask_preview_path, partial(Image.fromarray(preview.round().astype(np.uint8)).save, format="PNG"))
    return job.mask_preview_path
