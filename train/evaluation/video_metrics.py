"""Metrics of clips against the exact ground truth of the sticker world: motion, stillness elsewhere, strength, objects.

A video comes from any function of the ground truth and of what is requested. The motion of an object is read by
comparison with the object in every motion (dianjing.train.stickers.tracking). Names follow VBench (Huang et al. 2023,
arXiv 2311.17982) where it has one. Metrics return the value of each clip or object, so that parts of an evaluation
can be combined.

F frames, S image side in pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import cv2
import numpy as np

from dianjing.train.evaluation.image_generation import image_to_tensor
from dianjing.train.evaluation.settings import GRID_PX, LANGUAGES
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import ObjectMotion, StickerClip
from dianjing.train.stickers.matching import Detections, SpriteMatcher
from dianjing.train.stickers.scenes import CANVAS_PX, SpriteInstance
from dianjing.train.stickers.tracking import MotionEstimate, classify_sprite, estimate_motion

MIN_VISIBLE_CHANGE = 32  # on 0 to 255, in any channel; a smaller change counts as none
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class InstanceMotionRequest:
    """A motion that is requested of one instance of a scene, with a strength from 0 to 1."""

    instance_index: int
    phrase: str
    strength: float


@dataclass(frozen=True, kw_only=True)
class AnimationResult:
    """An animated image.

    frames: uint8 (F, S, S, 3). decoded_first_frame: uint8 (S, S, 3), the first frame as the VAE reconstructs it,
    before the pixels of the given image replace those of static regions.
    """

    frames: np.ndarray
    decoded_first_frame: np.ndarray


GetSpeed = Callable[[str, float], float]  # motion phrase, strength -> speed in image sides per second
AnimateFunction = Callable[[StickerClip, Sequence[InstanceMotionRequest], int], AnimationResult]  # ..., seed
GenerateVideoFunction = Callable[[StickerClip, str, int], np.ndarray]  # clip, language, seed -> uint8 (F, S, S, 3)
MetricValues = dict[str, list[float]]  # metric -> its value for each clip or object
VideoMetrics = tuple[MetricValues, list[np.ndarray]]  # and the frames of each clip


def iterate_controlled_clips(
    *, num_moving: int, size_px: int, seed: int, num_frames: int, fps: float
) -> Iterator[StickerClip]:
    """Yield held-out clips of two or three objects, `num_moving` of which move, each with a motion of its own."""
    stage = CurriculumStage(scene_weights={"pair": 0.7, "trio": 0.3}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    for position in count():
        clip = world.get_controlled_clip(seed, position, num_frames=num_frames, fps=fps)
        moving = [(index, each) for index, each in enumerate(clip.object_motions) if each is not None][:num_moving]
        if len(moving) == num_moving and len({each.motion for _, each in moving}) == num_moving:
            chosen = dict(moving)
            yield replace(clip, object_motions=tuple(chosen.get(index) for index in range(len(clip.object_motions))))


def iterate_captioned_clips(*, size_px: int, seed: int, num_frames: int, fps: float) -> Iterator[StickerClip]:
    """Yield held-out clips of one or two objects whose captions name the motions."""
    stage = CurriculumStage(scene_weights={"single": 0.6, "pair": 0.4}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    return (world.get_captioned_clip(seed, position, num_frames=num_frames, fps=fps) for position in count())


def get_motion_requests(
    clip: StickerClip, language: str, get_speed: GetSpeed, *, paraphrase_index: int
) -> list[InstanceMotionRequest]:
    """Return the requests that describe the motion of a clip, with its true strengths, at most 1.

    paraphrase_index: chooses among the phrases of each motion, modulo their number.
    """
    requests = []
    for index, (phrases, speed) in enumerate(zip(clip.motion_phrases, clip.strengths, strict=True)):
        if phrases is not None:
            paraphrases = phrases[LANGUAGES.index(language)]
            phrase = paraphrases[paraphrase_index % len(paraphrases)]
            strength = min(1.0, speed / get_speed(phrase, 1.0))
            requests.append(InstanceMotionRequest(instance_index=index, phrase=phrase, strength=strength))
    return requests


def measure_outside_change(frames: np.ndarray, clip: StickerClip) -> float:
    """Measure the share of the image that differs visibly from the first frame, outside all true tracks of motion."""
    moving = [index for index, motion in enumerate(clip.object_motions) if motion is not None]
    is_on_track = clip.masks[:, moving].any(axis=(0, 1))
    has_changed = (np.abs(frames.astype(int) - frames[:1]).max(axis=-1) > MIN_VISIBLE_CHANGE).any(axis=0)
    return float((has_changed & ~is_on_track).mean())


def measure_temporal_flickering(frames: np.ndarray) -> float:
    """Compute 1 - mean absolute change from frame to frame, on 0 to 1.

    Source: "temporal flickering" of VBench (arXiv 2311.17982).
    """
    return float(1 - np.abs(np.diff(frames.astype(np.float32), axis=0)).mean() / 255)


def compute_rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute Spearman's rank correlation; equal values share their mean rank, and constants give 0."""

    def get_ranks(values: Sequence[float]) -> np.ndarray:
        array = np.asarray(values)
        return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])

    x, y = get_ranks(a), get_ranks(b)
    scale = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / scale) if scale else 0.0


def evaluate_motion_control(
    animate: AnimateFunction, get_speed: GetSpeed, clips: Sequence[StickerClip], *, language: str, seed: int
) -> VideoMetrics:
    """Evaluate, for each clip, if all requested motions are correct, the change elsewhere, and the first frame.

    "i1_mse" (0 to 255 squared) is measured on the frames as returned, "i1_mse_decoded" on the VAE's reconstruction.
    `seed` is that of the first clip, and chooses its paraphrase; each next clip has the next seed.
    Source: I1-MSE of Follow-Your-Click (arXiv 2403.08268).
    """
    names = ("motion_accuracy", "outside_change", "i1_mse", "i1_mse_decoded", "temporal_flickering")
    metrics: MetricValues = {name: [] for name in names}
    videos = []
    for clip_seed, clip in enumerate(clips, start=seed):
        requests = get_motion_requests(clip, language, get_speed, paraphrase_index=clip_seed)
        animated = animate(clip, requests, clip_seed)
        frames = animated.frames
        is_correct = all(
            estimate_motion(frames, clip, each.instance_index).motion == _get_motion(clip, each.instance_index)
            for each in requests
        )
        mse, mse_decoded = (_compute_mse(each, clip.frames[0]) for each in (frames[0], animated.decoded_first_frame))
        outside_change = measure_outside_change(frames, clip)
        values = (is_correct, outside_change, mse, mse_decoded, measure_temporal_flickering(frames))
        for name, value in zip(names, values, strict=True):
            metrics[name].append(value)
        videos.append(frames)
    return metrics, videos


def evaluate_strength_control(
    animate: AnimateFunction, get_speed: GetSpeed, clips: Sequence[StickerClip], *, language: str, seed: int
) -> VideoMetrics:
    """Compute, for each clip with one moving object, the rank correlation of requested strength and observed amplitude.

    Each clip is animated with every one of STRENGTHS.
    """
    correlations, videos = [], []
    for clip_seed, clip in enumerate(clips, start=seed):
        (request,) = get_motion_requests(clip, language, get_speed, paraphrase_index=clip_seed)
        animated = [animate(clip, [replace(request, strength=each)], clip_seed).frames for each in STRENGTHS]
        amplitudes = [estimate_motion(frames, clip, request.instance_index).amplitude for frames in animated]
        correlations.append(compute_rank_correlation(STRENGTHS, amplitudes))
        videos += animated
    return {"rank_correlation": correlations}, videos


def evaluate_text_to_video(
    generate: GenerateVideoFunction, matcher: SpriteMatcher, clips: Sequence[StickerClip], *, language: str, seed: int
) -> VideoMetrics:
    """Evaluate if each object is recognized in the first, central and last frame, and if each moving one moves so.

    If an object of the prompt is missing in the first frame, all objects of that clip count as incorrect.
    """
    metrics: MetricValues = {"object_consistency": [], "motion_accuracy": [], "temporal_flickering": []}
    videos = []
    for clip_seed, clip in enumerate(clips, start=seed):
        frames = generate(clip, language, clip_seed)
        detected_clip = _match_first_frame(clip, matcher.detect(image_to_tensor(frames[0])), size_px=matcher.size_px)
        for index in range(len(clip.scene.instances)):
            estimate = None if detected_clip is None else estimate_motion(frames, detected_clip, index)
            motion = _get_motion(clip, index)
            if motion is not None:
                metrics["motion_accuracy"].append(estimate is not None and estimate.motion == motion)
            metrics["object_consistency"].append(
                detected_clip is not None
                and estimate is not None
                and _is_consistent(frames, detected_clip, index, estimate)
            )
        metrics["temporal_flickering"].append(measure_temporal_flickering(frames))
        videos.append(frames)
    return metrics, videos


def find_deepest_point(mask: np.ndarray) -> tuple[float, float]:
    """Return x, y of the pixel of a mask (H, W) that is farthest from its outline: where people would click."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def measure_mask_iou(predict: Callable[[np.ndarray, float, float], np.ndarray], clips: Sequence[StickerClip]) -> float:
    """Compute the median intersection over union of predicted masks and true masks, for one point per clip.

    predict: image uint8 (S, S, 3), x, y -> bool (S, S). The point is that of `find_deepest_point`.
    """
    values = []
    for clip in clips:
        index = next(index for index, motion in enumerate(clip.object_motions) if motion is not None)
        true_mask = clip.masks[0, index]
        mask = predict(clip.frames[0], *find_deepest_point(true_mask))
        values.append((mask & true_mask).sum() / max(1, (mask | true_mask).sum()))
    return round(float(np.median(values)), 4)


def _compute_mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def _get_motion(clip: StickerClip, instance_index: int) -> int | None:
    object_motion = clip.object_motions[instance_index]
    return None if object_motion is None else object_motion.motion


def _is_consistent(
    frames: np.ndarray, detected_clip: StickerClip, instance_index: int, estimate: MotionEstimate
) -> bool:
    """Check that the object of the first frame is still the best explanation in the central and in the last frame."""
    motion = None if estimate.motion is None else ObjectMotion(motion=estimate.motion, amplitude=estimate.amplitude)
    before, after = detected_clip.object_motions[:instance_index], detected_clip.object_motions[instance_index + 1 :]
    moving_clip = replace(detected_clip, object_motions=(*before, motion, *after))
    class_id = detected_clip.scene.instances[instance_index].class_id
    return all(
        classify_sprite(frames[frame_index], moving_clip, instance_index, frame_index) == class_id
        for frame_index in (len(frames) // 2, len(frames) - 1)
    )


def _match_first_frame(clip: StickerClip, detections: Detections, *, size_px: int) -> StickerClip | None:
    """Return the clip with its instances and background as detected in a first frame; None if an object is missing.

    size_px: side of the image that the detections are in.
    """
    remaining = list(detections.objects)
    instances = []
    for instance in clip.scene.instances:
        candidates = [each for each in remaining if each.class_id == instance.class_id]
        same_colour = [each for each in candidates if each.colour == instance.colour]
        if not candidates:
            return None
        match = (same_colour or candidates)[0]
        remaining.remove(match)
        ratio = CANVAS_PX // size_px
        box = {"x_px": match.x_px * ratio, "y_px": match.y_px * ratio, "size_px": match.size_px * ratio}
        instances.append(SpriteInstance(class_id=match.class_id, colour=match.colour, **box))
    return replace(clip, scene=replace(clip.scene, instances=tuple(instances), background=detections.background))
