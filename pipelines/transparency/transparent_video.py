"""Videos of objects without their background: cut out once, in the first frame, and moved with their alpha.

Alpha and colors follow one motion field from frame to frame, so that rims do not flicker.
R regions, H height, W width; images are uint8 (H, W, C), masks bool (H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import check_image_with_alpha
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt, MotionPromptParser
from dianjing.pipelines.segmentation.base import Region, Segmenter, predict_masks
from dianjing.pipelines.transparency.background_removal import cut_out, find_object_mask
from dianjing.pipelines.transparency.mask_refinement import MIN_PART_SHARE, refine_mask
from dianjing.pipelines.transparency.prompt_check import check_transparent_prompt, parse_transparent_motion
from dianjing.pipelines.video.phrase_flow import PhraseFlow
from dianjing.pipelines.video.warped_image import WarpedImage, check_warped_regions

STRENGTH_FACTORS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.1)  # the first with which objects stay in the image
MAX_CUT_SHARE = 0.01  # of the opaque pixels of the first frame that may lie at the border of a later one
MIN_REMAINING_SHARE = 0.95  # of them, for an object that lies at the border from the first frame on


@dataclass(frozen=True, kw_only=True)
class CutOutRegions:
    """An image with the objects of its regions alone, RGBA, and the regions with masks of all that moves with each."""

    image: Image.Image
    regions: tuple[Region, ...]


def has_transparent_parts(image: Image.Image) -> bool:
    """True for an image with pixels that are not opaque."""
    return image.mode == "RGBA" and bool((np.asarray(image)[..., 3] < 255).any())


def cut_out_regions(
    image: Image.Image | np.ndarray,
    regions: Sequence[Region],
    *,
    segmenter: Segmenter,
    still_mask: np.ndarray | None = None,
) -> CutOutRegions:
    """Cut the objects of regions out of an image; one that has transparent parts keeps its own alpha.

    still_mask: bool (H, W) of objects that stay where they are, and are cut out too.
    Raises: DianjingError for regions that select no object, and for masks without anything in them.
    """
    source = check_image_with_alpha(image)
    check_warped_regions(regions, size=source.size)
    if all(region.target == "image" for region in regions):
        raise DianjingError("transparent_without_region")
    if has_transparent_parts(source):
        return CutOutRegions(image=source, regions=tuple(regions))
    pixels = np.asarray(source.convert("RGB"))
    masks = predict_masks(pixels, regions, segmenter)
    is_object = np.array([region.target == "object" for region in regions])
    moving = masks[is_object].any(axis=0)
    mask = moving if still_mask is None else moving | still_mask
    if not mask.any() or mask.all():
        raise DianjingError("transparent_region_empty", motions=[region.motion_name for region in regions])
    rgba = cut_out(pixels, refine_mask(pixels, mask))
    labels = [*masks[is_object], *_select_still_parts(still_mask, moving)]
    parts = iter(_divide(rgba[..., 3] > 0, labels))
    moved = [replace(each, points=(), mask=next(parts)) if each.target == "object" else each for each in regions]
    return CutOutRegions(image=Image.fromarray(rgba), regions=tuple(moved))


def _select_still_parts(still_mask: np.ndarray | None, moving: np.ndarray) -> list[np.ndarray]:
    """Select what stays: the objects that no region selects, without the rims of those that one does."""
    if still_mask is None:
        return []
    count, labels = cv2.connectedComponents(still_mask.astype(np.uint8))
    parts = [labels == index for index in range(1, count)]
    min_pixels = MIN_PART_SHARE * moving.sum()
    return [part for part in parts if (part & moving).sum() < part.sum() / 2 and part.sum() > min_pixels]


def _divide(visible: np.ndarray, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Divide the visible pixels, bool (H, W), among masks: each pixel goes with the nearest one."""
    distances = np.stack([cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) for mask in masks])
    nearest = distances.min(axis=0)
    return [visible & (distance <= nearest) for distance in distances]


def warp_transparent(pipe: Any, cut: CutOutRegions, **arguments: Any) -> WarpedImage:
    """Move the regions of a cut-out image by the model's motion field and by paths: frames with alpha.

    pipe: an image-to-video pipeline. arguments: those of its `warp`.
    """
    return pipe.warp(cut.image, cut.regions, **arguments)


def parse_transparent_video_prompt(pipe: Any, prompt: str) -> MotionPrompt:
    """Parse a prompt for an image-to-video pipeline with a flow field.

    Raises: DianjingError for a model without one, and for a prompt without an object or a motion.
    """
    PhraseFlow.from_pipeline(pipe)
    check_transparent_prompt(pipe.prompt_normalizer, prompt, pipe.list_trigger_words())
    parser = MotionPromptParser(pipe.motion_vocabulary, pipe.concept_vocabulary)
    return parse_transparent_motion(parser, str(pipe.normalize_prompts(prompt)))


def cut_out_prompt(pipe: Any, image_pipe: Any, image: Image.Image, prompt: str) -> CutOutRegions:
    """Cut what a prompt names out of an image of it, with the motions that the prompt gives it.

    pipe: an image-to-video pipeline. image_pipe: a text-to-image pipeline of the same model.
    Raises: DianjingError as `parse_transparent_video_prompt` does, and for an image without the objects.
    """
    static_prompt = parse_transparent_video_prompt(pipe, prompt).static_prompt
    regions = pipe.locate_regions(image, prompt, height=image.height, width=image.width)
    mask = find_object_mask(image_pipe, np.asarray(image), static_prompt)
    return cut_out_regions(image, regions, segmenter=pipe.unet_segmenter or pipe.segmenter, still_mask=mask)


def generate_transparent_video(
    pipe: Any,
    prompt: str,
    *,
    num_frames: int | None = None,
    duration_s: float | None = None,
    fps: float | None = None,
    **sampling: Any,
) -> WarpedImage:
    """Generate a video of what a prompt names, without its background: frames with alpha.

    pipe: a text-to-video pipeline. sampling: the arguments of its call, for the first frame.
    Raises: DianjingError as `cut_out_prompt` does.
    """
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    animator, image_pipe = ImageToVideoPipeline.from_pipe(pipe), TextToImagePipeline.from_pipe(pipe)
    parse_transparent_video_prompt(animator, prompt)
    image = pipe(prompt, num_frames=1, output_type="pil", **sampling).frames[0][0]
    duration: dict[str, Any] = {"num_frames": num_frames, "duration_s": duration_s, "fps": fps}
    cut = limit_strengths(animator, cut_out_prompt(animator, image_pipe, image, prompt), **duration)
    return warp_transparent(animator, cut, **duration)


def limit_strengths(pipe: Any, cut: CutOutRegions, **arguments: Any) -> CutOutRegions:
    """Weaken the motions of a cut-out as far as needed for its objects to stay in the image, which would cut them off.

    pipe: an image-to-video pipeline. arguments: those of its `warp`.
    """
    for factor in STRENGTH_FACTORS:
        regions = tuple(replace(region, strength=region.strength * factor) for region in cut.regions)
        weaker = replace(cut, regions=regions)
        if not _is_cut_off(warp_transparent(pipe, weaker, **arguments)):
            break
    return weaker


def _is_cut_off(warped: WarpedImage) -> bool:
    """True if objects move over the border of the image: more of them touches it, or less of them is left at it."""
    opaque = [frame[..., 3] > 127 for frame in warped.frames]
    areas = np.array([each.sum() for each in opaque])
    at_border = np.array([each[[0, -1]].sum() + each[:, [0, -1]].sum() for each in opaque])
    is_leaving = at_border - at_border[0] > MAX_CUT_SHARE * areas[0]
    is_left = (at_border > MAX_CUT_SHARE * areas[0]) & (areas < MIN_REMAINING_SHARE * areas[0])
    return bool((is_leaving | is_left).any())
