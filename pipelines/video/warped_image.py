"""Animation of an image by its own pixels: checks, size and masks, then the frames one by one.

R regions, F frames, H height, W width; masks are bool (R, H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.media.crop import CropTransform, resize_crop
from dianjing.pipelines.media.image import check_image_with_alpha
from dianjing.pipelines.segmentation.base import MAX_WARPED_REGIONS, Region, Segmenter, check_region, predict_masks
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.video.image_warp import ImageWarp
from dianjing.pipelines.video.phrase_flow import PhraseFlow
from dianjing.pipelines.video.refinement import crop_regions
from dianjing.pipelines.video.warp_image import DEFAULT_FPS, prepare_warp

DEFAULT_NUM_FRAMES = 17


@dataclass(frozen=True, kw_only=True)
class WarpedImage:
    """Frames of an animated image, made when they are asked for, with the masks of its regions and its crop."""

    frames: ImageWarp
    masks: np.ndarray
    crop_transform: CropTransform


def check_warped_regions(regions: Sequence[Region], *, size: tuple[int, int]) -> None:
    """Raise DianjingError for no regions, too many, or any that does not fit an image of (width, height) px."""
    if not 1 <= len(regions) <= MAX_WARPED_REGIONS:
        raise DianjingError("region_count_out_of_range", count=len(regions), maximum=MAX_WARPED_REGIONS)
    for region in regions:
        check_region(region, size=size)


def make_warped_image(
    image: Image.Image | np.ndarray,
    regions: Sequence[Region],
    *,
    num_frames: int | None = None,
    duration_s: float | None = None,
    fps: float = DEFAULT_FPS,
    height: int | None = None,
    width: int | None = None,
    segmenter: Segmenter | None = None,
    phrase_flow: PhraseFlow | None = None,
) -> WarpedImage:
    """Animate an image: scale and crop it to height x width, its own size by default, and move its regions.

    One side alone keeps the aspect ratio. phrase_flow: for motion phrases; that of the bundled model by default.
    Raises: DianjingError for arguments that cannot work, before anything is computed.
    """
    source = check_image_with_alpha(image)
    check_warped_regions(regions, size=source.size)
    width, height = choose_warped_size(source.size, width=width, height=height)
    fps = validation.check_fps(fps)
    num_frames = validation.check_num_frames(num_frames, duration_s, fps, bytes_per_frame=4 * width * height)
    num_frames = DEFAULT_NUM_FRAMES if num_frames is None else num_frames
    if num_frames < 2:
        raise DianjingError("motion_needs_frames", num_frames=num_frames)
    masks = predict_masks(np.asarray(source), regions, segmenter or GrabCutSegmenter())
    fitted, crop_transform = resize_crop(source, width=width, height=height)
    masks = crop_masks(masks, regions, crop_transform)
    cropped = crop_regions(regions, masks, crop_transform)
    warp = prepare_warp(np.asarray(fitted), cropped, num_frames, masks=masks, phrase_flow=phrase_flow, fps=fps)
    return WarpedImage(frames=warp, masks=masks, crop_transform=crop_transform)


def choose_warped_size(size: tuple[int, int], *, width: int | None, height: int | None) -> tuple[int, int]:
    """Choose the (width, height) of a video from those that are given and those of the image.

    Raises: DianjingError for a side that is no number of px.
    """
    for side, name in ((width, "width"), (height, "height")):
        if side is not None:
            validation.check_side_px(side, name, multiple_px=1)
    if width is None and height is None:
        return size
    if width is None:
        assert height is not None
        width = max(1, round(height * size[0] / size[1]))
    return width, max(1, round(width * size[1] / size[0])) if height is None else height


def crop_masks(masks: np.ndarray, regions: Sequence[Region], crop_transform: CropTransform) -> np.ndarray:
    """Crop masks, bool (R, H, W), like an image. Raises: DianjingError for a region of which nothing is left."""
    if crop_transform.source_size == crop_transform.target_size:
        return masks
    width, height = crop_transform.target_size
    cropped_masks = []
    for mask, region in zip(masks, regions, strict=True):
        cropped, _ = resize_crop(Image.fromarray(mask.astype(np.uint8) * 255), height=height, width=width)
        cropped_masks.append(np.asarray(cropped) > 127)
        if not cropped_masks[-1].any():
            raise DianjingError(
                "region_cropped_away", motion=region.motion_name, crop_transform=crop_transform.to_message()
            )
    return np.stack(cropped_masks)
