"""How well clips do what was asked, against the exact truth of the sticker world: directions, stillness, strengths.

A clip comes from any function of the truth and what is asked. How an object moved is read by comparing it with that
object in every motion (stickers.tracking). Where VBench (Huang et al. 2023, arXiv 2311.17982) has a name for a figure,
it is used. A judge gives a figure's value for each clip or object, so that parts of an evaluation can be put together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from dianjing.train.evaluation.image_generation import GRID_PX, LANGUAGES, image_to_tensor
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import ObjectMotion, StickerClip
from dianjing.train.stickers.matching import Detection, SpriteMatcher
from dianjing.train.stickers.scenes import CANVAS_PX, SpriteInstance
from dianjing.train.stickers.tracking import MotionEstimate, classify_sprite, estimate_motion

MIN_VISIBLE_CHANGE = 32  # levels of any colour: less is no change that anyone sees
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class InstanceMotionRequest:
    """One region: which item of the scene, the phrase, the strength 0 to 1."""

    instance_index: int
    phrase: str
    strength: float


@dataclass(frozen=True, kw_only=True)
class AnimationResult:
    """Frames uint8 (F, S, S, 3), and the first as the VAE decodes it, before what stands still takes the picture's."""

    frames: np.ndarray
    decoded_first_frame: np.ndarray


AnimateFunction = Callable[
    [StickerClip, Sequence[InstanceMotionRequest], int], AnimationResult
]  # truth, what is asked, seed
GenerateVideoFunction = Callable[
    [StickerClip, str, int], np.ndarray
]  # clip, language of its caption, seed -> uint8 (F, S, S, 3)
MetricValues = dict[str, list[float]]  # values of each name
VideoMetrics = tuple[MetricValues, list[np.ndarray]]  # and the frames of each clip


def iterate_controlled_clips(
    *, num_moving: int, size_px: int, seed: int, num_frames: int, fps: float
) -> Iterator[StickerClip]:
    """Held-out clips of two or three objects, `moving` of which move, each in its own way."""
    stage = CurriculumStage(scene_weights={"pair": 0.7, "trio": 0.3}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    for position in count():
        clip = world.get_controlled_clip(seed, position, num_frames=num_frames, fps=fps)
        items = [index for index, move in enumerate(clip.object_motions) if move is not None]
        motions = {clip.object_motions[index].motion for index in items[:num_moving]}  # type: ignore[union-attr]
        if len(items) >= num_moving and len(motions) == num_moving:
            moves = [move if index in items[:num_moving] else None for index, move in enumerate(clip.object_motions)]
            yield replace(clip, object_motions=tuple(moves))


def get_motion_requests(
    clip: StickerClip, language: str, get_speed: Callable[[str, float], float], *, paraphrase_index: int
) -> list[InstanceMotionRequest]:
    """What makes a clip happen; `choice` picks among the phrasings. Strengths are those of the truth, at most 1."""
    asked = []
    for item, (phrases, strength) in enumerate(zip(clip.motion_phrases, clip.strengths, strict=True)):
        if phrases is not None:
            phrasings = phrases[LANGUAGES.index(language)]
            phrase = phrasings[paraphrase_index % len(phrasings)]
            asked.append(
                InstanceMotionRequest(
                    instance_index=item, phrase=phrase, strength=min(1.0, strength / get_speed(phrase, 1.0))
                )
            )
    return asked


def measure_outside_change(frames: np.ndarray, clip: StickerClip) -> float:
    """Share of the picture that changes since the first frame and is in no moving object's true track."""
    moving = [index for index, move in enumerate(clip.object_motions) if move is not None]
    track_ = clip.masks[:, moving].any(axis=(0, 1))
    changed = (np.abs(frames.astype(int) - frames[:1]).max(axis=-1) > MIN_VISIBLE_CHANGE).any(axis=0)
    return float((changed & ~track_).mean())


def measure_temporal_flickering(frames: np.ndarray) -> float:
    """1 - mean change from frame to frame, on 0 to 1 (VBench's name and measure)."""
    return float(1 - np.abs(np.diff(frames.astype(np.float32), axis=0)).mean() / 255)


def compute_rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: of the ranks; equal values share theirs."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        order = np.asarray(values)
        return np.array([(order < value).sum() + ((order == value).sum() - 1) / 2 for value in order])

    x, y = ranks(a), ranks(b)
    spread = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 0.0


def evaluate_motion_control(
    animate: AnimateFunction,
    get_speed: Callable[[str, float], float],
    clips: Sequence[StickerClip],
    *,
    language: str,
    seed: int,
) -> VideoMetrics:
    """Of each clip: all that was asked is right, change elsewhere, I1-MSE on 0 to 255.

    i1_mse is of the frames that a user gets, i1_mse_decoded of what the model alone makes of the first one. `seed` is
    that of the first clip and picks its phrasing; the next one has the next seed.
    """
    names = ("motion_accuracy", "outside_change", "i1_mse", "i1_mse_decoded", "temporal_flickering")
    figures: MetricValues = {name: [] for name in names}
    shown = []
    for clip_seed, clip in enumerate(clips, start=seed):
        asked = get_motion_requests(clip, language, get_speed, paraphrase_index=clip_seed)
        animated = animate(clip, asked, clip_seed)
        frames = animated.frames
        right = all(
            estimate_motion(frames, clip, each.instance_index).motion == _get_motion(clip, each.instance_index)
            for each in asked
        )
        first, decoded = (_compute_mse(frame, clip.frames[0]) for frame in (frames[0], animated.decoded_first_frame))
        values = (right, measure_outside_change(frames, clip), first, decoded, measure_temporal_flickering(frames))
        for name, value in zip(names, values, strict=True):
            figures[name].append(value)
        shown.append(frames)
    return figures, shown


def _compute_mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def _get_motion(clip: StickerClip, instance_index: int) -> int | None:
    move = clip.object_motions[instance_index]
    return None if move is None else move.motion


def evaluate_strength_control(
    animate: AnimateFunction,
    get_speed: Callable[[str, float], float],
    clips: Sequence[StickerClip],
    *,
    language: str,
    seed: int,
) -> VideoMetrics:
    """Of each clip with one object moving: the rank correlation of strengths asked and amplitudes seen."""
    found, shown = [], []
    for clip_seed, clip in enumerate(clips, start=seed):
        (asked,) = get_motion_requests(clip, language, get_speed, paraphrase_index=clip_seed)
        made = [animate(clip, [replace(asked, strength=strength)], clip_seed).frames for strength in STRENGTHS]
        seen = [estimate_motion(frames, clip, asked.instance_index).amplitude for frames in made]
        found.append(compute_rank_correlation(STRENGTHS, seen))
        shown += made
    return {"rank_correlation": found}, shown


def measure_mask_iou(select: Callable[[np.ndarray, float, float], np.ndarray], clips: Sequence[StickerClip]) -> float:
    """Median intersection over union of one click's mask and the truth; the click is the object's inmost pixel."""
    import cv2

    found = []
    for clip in clips:
        item = next(index for index, move in enumerate(clip.object_motions) if move is not None)
        truth = clip.masks[0, item]
        depth = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        mask = select(clip.frames[0], float(x), float(y))
        found.append((mask & truth).sum() / max(1, (mask | truth).sum()))
    return round(float(np.median(found)), 4)


def iterate_captioned_clips(*, size_px: int, seed: int, num_frames: int, fps: float) -> Iterator[StickerClip]:
    """Held-out clips with captions that say what moves."""
    stage = CurriculumStage(scene_weights={"single": 0.6, "pair": 0.4}, grid_px=(GRID_PX,))
    world = StickerWorld(size_px=size_px, stages=[stage], split="held_out")
    return (world.get_captioned_clip(seed, position, num_frames=num_frames, fps=fps) for position in count())


def evaluate_text_to_video(
    generate: GenerateVideoFunction, matcher: SpriteMatcher, clips: Sequence[StickerClip], *, language: str, seed: int
) -> VideoMetrics:
    """Of each object: recognised on the first, middle and last frame. Of each that moves: it moves as told.

    An object that is not on the first frame is right in neither, nor are those beside it.
    """
    figures: MetricValues = {"object_consistency": [], "motion_accuracy": [], "temporal_flickering": []}
    shown = []
    for clip_seed, clip in enumerate(clips, start=seed):
        frames = generate(clip, language, clip_seed)
        reading = matcher.detect(image_to_tensor(frames[0]))
        placed = _match_first_frame(clip, reading.objects, reading.background)
        for item in range(len(clip.scene.instances)):
            tracked = None if placed is None else estimate_motion(frames, placed, item)
            if _get_motion(clip, item) is not None:
                figures["motion_accuracy"].append(tracked is not None and tracked.motion == _get_motion(clip, item))
            known = placed is not None and tracked is not None and _is_consistent(frames, placed, item, tracked)
            figures["object_consistency"].append(known)
        figures["temporal_flickering"].append(measure_temporal_flickering(frames))
        shown.append(frames)
    return figures, shown


def _is_consistent(
    frames: np.ndarray, detected_clip: StickerClip, instance_index: int, estimate: MotionEstimate
) -> bool:
    """Whether the object of the first frame is still that object in the middle and at the end, in its pose there."""
    move = None if estimate.motion is None else ObjectMotion(motion=estimate.motion, amplitude=estimate.amplitude)
    seen = replace(
        detected_clip,
        object_motions=(
            *detected_clip.object_motions[:instance_index],
            move,
            *detected_clip.object_motions[instance_index + 1 :],
        ),
    )
    thing = detected_clip.scene.instances[instance_index].class_id
    return all(
        classify_sprite(frames[at], seen, instance_index, at) == thing for at in (len(frames) // 2, len(frames) - 1)
    )


def _match_first_frame(clip: StickerClip, detections: Sequence[Detection], background: int) -> StickerClip | None:
    """The clip's scene where a first frame has it; None if an object is missing."""
    left, items = list(detections), []
    for item in clip.scene.instances:
        alike = [each for each in left if each.class_id == item.class_id]
        match = next((each for each in alike if each.colour == item.colour), alike[0] if alike else None)
        if match is None:
            return None
        left.remove(match)
        ratio = CANVAS_PX // clip.size_px
        place = {"x_px": match.x_px * ratio, "y_px": match.y_px * ratio, "size_px": match.size_px * ratio}
        items.append(SpriteInstance(class_id=match.class_id, colour=match.colour, **place))
    return replace(clip, scene=replace(clip.scene, instances=tuple(items), background=background))
