"""Warping of an image by its regions: masks, layers, and the motion of each by phrase, path or both.

R regions, F frames, H height, W width; images are uint8 (H, W, 3), or (H, W, 4) with alpha, masks bool (H, W).
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from dianjing.pipelines.media.color import flatten_alpha
from dianjing.pipelines.segmentation.base import Region, Segmenter, check_region, predict_masks
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.video.bending import BENDING_MOTIONS, TURNING_MOTIONS, WORKING_SIDE_PX, Bend, plan_bend
from dianjing.pipelines.video.camera import CameraMove, plan_camera
from dianjing.pipelines.video.fold_limit import limit_folds
from dianjing.pipelines.video.image_warp import ImageWarp, RegionMotion
from dianjing.pipelines.video.motion_path import make_similarities
from dianjing.pipelines.video.phrase_flow import MASK_SIDE_PX, PhraseFlow
from dianjing.pipelines.video.region_layers import split_layers
from dianjing.pipelines.video.rigid_turn import fit_turn
from dianjing.pipelines.video.shadow_motion import cast_shadow, find_box_center

# sizes of objects, relative to the image, that the flow field was trained on
MIN_RELATIVE_SIZE, MAX_RELATIVE_SIZE = 0.25, 0.6
DEFAULT_FPS = 8.0
Square = tuple[float, float, float]  # left, top, side


def warp_image(
    image: np.ndarray,
    regions: Sequence[Region],
    num_frames: int,
    *,
    masks: np.ndarray | None = None,
    segmenter: Segmenter | None = None,
    phrase_flow: PhraseFlow | None = None,
    fps: float = DEFAULT_FPS,
) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image as its regions say: frames uint8 (F, H, W, C), and masks (F, H, W) of what regions cover in each.

    The arguments are those of `prepare_warp`. Where no region is, in a frame or in the first one, the frame has the
    pixels of the image.
    Raises: DianjingError for regions that do not fit the image.
    """
    for region in regions:
        check_region(region, size=(image.shape[1], image.shape[0]))
    warp = prepare_warp(image, regions, num_frames, masks=masks, segmenter=segmenter, phrase_flow=phrase_flow, fps=fps)
    rendered = [warp.render(index) for index in range(num_frames)]
    return np.stack([frame for frame, _ in rendered]), np.stack([covered for _, covered in rendered])


def prepare_warp(
    image: np.ndarray,
    regions: Sequence[Region],
    num_frames: int,
    *,
    masks: np.ndarray | None = None,
    segmenter: Segmenter | None = None,
    phrase_flow: PhraseFlow | None = None,
    fps: float = DEFAULT_FPS,
) -> ImageWarp:
    """Prepare the warp of an image (H, W, 3), or (H, W, 4) with alpha, whose frames are made when they are asked for.

    masks: bool (R, H, W) of all regions, instead of their own; those of whole images are ignored. segmenter: for the
    points of regions, GrabCut by default. phrase_flow: for motion phrases, that of the bundled model by default.
    """
    height, width = image.shape[:2]
    if masks is None:
        masks = predict_masks(image, regions, segmenter or GrabCutSegmenter())
    objects = [(region, mask) for region, mask in zip(regions, masks, strict=True) if region.target == "object"]
    phrases = [region.motion for region, _ in objects if region.motion]
    if phrases and phrase_flow is None:
        phrase_flow = load_phrase_flow()
    pairs = [
        _make_motion(image, region, mask, num_frames=num_frames, phrase_flow=phrase_flow, fps=fps)
        for region, mask in objects
    ]
    camera = plan_camera_of_regions(regions, num_frames=num_frames, size=(width, height))
    motions = [motion for _, motion in pairs]
    stands_free = [motion.bend_weight is None for motion in motions]
    layered = split_layers(image, [mask for mask, _ in pairs], stands_free=stands_free)
    shadows = [cast_shadow(motion, mask) for mask, motion in pairs]
    return ImageWarp(
        layered=layered,
        motions=motions,
        shadow_motions=[shadow.motion for shadow in shadows],
        shadow_strengths=[shadow.strengths for shadow in shadows],
        camera=camera,
        num_frames=num_frames,
    )


def load_phrase_flow(model: str = "sticker") -> PhraseFlow:
    """Load the flow field of a model."""
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline

    return PhraseFlow.from_pipeline(ImageToVideoPipeline.from_pretrained(model))


def plan_camera_of_regions(regions: Sequence[Region], *, num_frames: int, size: tuple[int, int]) -> CameraMove | None:
    """Plan the camera of those regions that are the whole image, of (width, height) px; None without any."""
    moves = []
    for region in regions:
        if region.target == "image":
            pivot = (size[0] / 2, size[1] / 2) if region.anchor is None else (region.anchor.x, region.anchor.y)
            moves.append((_make_similarities(region, num_frames), pivot))
    return plan_camera(moves, size=size) if moves else None


def _make_similarities(region: Region, num_frames: int) -> list:
    return make_similarities(
        path=region.path, turn=region.turn, scale=region.scale, times=region.times, num_frames=num_frames
    )


def _make_motion(
    image: np.ndarray, region: Region, mask: np.ndarray, *, num_frames: int, phrase_flow: PhraseFlow | None, fps: float
) -> tuple[np.ndarray, RegionMotion]:
    """The mask of what moves with a region, which a surface that stretches extends, and its motion."""
    similarities = _make_similarities(region, num_frames)
    pivot = find_box_center(mask) if region.anchor is None else (region.anchor.x, region.anchor.y)
    name = _find_motion_name(region, phrase_flow)
    bend = _plan_bend(image, region, mask, name)
    weight, object_mask, moving = None, mask, mask
    if bend is not None:
        weight, object_mask = bend.weight, bend.object_mask
        moving = mask | (cv2.resize(bend.mask.astype(np.float32), mask.shape[::-1]) > 0.5)
    if not region.motion:
        motion = RegionMotion(similarities=similarities, pivot=pivot, bend_weight=weight)
        return moving, limit_folds(motion, moving)
    assert phrase_flow is not None
    square = choose_square(mask)
    flow_mask = _cut_square(object_mask, square, size=(mask.shape[1], mask.shape[0]))
    flow = phrase_flow.predict(
        torch.from_numpy(flow_mask)[None], [region.motion], [region.strength], num_frames=num_frames, fps=fps
    )[0]
    if bend is not None and name in TURNING_MOTIONS:
        flow = fit_turn(flow, mask, square=square, pivot=bend.pivot)
    motion = RegionMotion(similarities=similarities, pivot=pivot, flow=flow, square=square, bend_weight=weight)
    return moving, limit_folds(motion, moving)


def _find_motion_name(region: Region, phrase_flow: PhraseFlow | None) -> str:
    """The name of the motion that the phrase of a region requests; empty for none that is known."""
    concept = phrase_flow.motion_vocabulary.find(region.motion) if phrase_flow and region.motion else None
    return "" if concept is None else concept.name


def _plan_bend(image: np.ndarray, region: Region, mask: np.ndarray, name: str) -> Bend | None:
    """Plan the bend of a region with an anchor, or with a motion that bends parts, on a smaller image.

    The pivot of the result is in px of the image.
    """
    if region.anchor is None and name not in BENDING_MOTIONS:
        return None
    height, width = mask.shape
    shrink = max(1.0, max(height, width) / WORKING_SIDE_PX)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small_image = cv2.resize(flatten_alpha(image), size, interpolation=cv2.INTER_AREA)
    levels = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small_mask = levels > min(0.5, float(levels.max()) / 2)
    anchor = None
    if region.anchor is not None:
        anchor = (region.anchor.x * size[0] / width, region.anchor.y * size[1] / height)
    bend = plan_bend(small_image, small_mask, motion=name, anchor=anchor)
    if bend is None:
        return None
    return replace(bend, pivot=(bend.pivot[0] * width / size[0], bend.pivot[1] * height / size[1]))


def choose_square(mask: np.ndarray) -> Square:
    """Choose the square (left, top, side) in px that the flow field takes for the image of a region.

    It holds the image in its middle, since an affine map in fractions of unequal sides would shear what turns. For an
    object much smaller or larger than those of the training data, the square is smaller or larger than the image.
    """
    height, width = mask.shape
    (top, bottom), (left, right) = (np.nonzero(mask.any(axis=axis))[0][[0, -1]] for axis in (1, 0))
    object_size, longest = max(bottom - top, right - left) + 1, max(height, width)
    side = float(np.clip(longest, object_size / MAX_RELATIVE_SIZE, object_size / MIN_RELATIVE_SIZE))
    if side == longest:
        return (width - side) / 2, (height - side) / 2, side
    center_x, center_y = (left + right + 1) / 2, (top + bottom + 1) / 2
    share_x, share_y = (
        float(np.clip((center - (length - longest) / 2) / longest, 0.3, 0.7))
        for center, length in ((center_x, width), (center_y, height))
    )
    return center_x - share_x * side, center_y - share_y * side, side


def _cut_square(mask: np.ndarray, square: Square, *, size: tuple[int, int]) -> np.ndarray:
    """Cut the square of an image of (width, height) px out of its mask (h, w), which may be smaller: float32 (S, S)."""
    left, top, side = square
    scale_x, scale_y = mask.shape[1] / size[0], mask.shape[0] / size[1]
    shrink = max(1.0, side * scale_x / MASK_SIDE_PX)
    values = cv2.blur(mask.astype(np.float32), (max(1, round(shrink)),) * 2)
    centers = (np.arange(MASK_SIDE_PX) + 0.5) * side / MASK_SIDE_PX
    map_x, map_y = np.meshgrid((left + centers) * scale_x - 0.5, (top + centers) * scale_y - 0.5)
    maps = map_x.astype(np.float32), map_y.astype(np.float32)
    return cv2.remap(values, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
