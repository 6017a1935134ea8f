"""How well clips do what was asked, against the exact truth of the sticker world: directions, stillness, strengths.

A clip comes from any function of the truth and what is asked. How an object moved is read by comparing it with that
object in every motion (stickers.tracking). Where VBench (Huang et al. 2023, arXiv 2311.17982) has a name for a figure,
it is used. A judge gives a figure's value for each clip or object, so that parts of an evaluation can be put together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from dianjing.train.evaluate import LANGUAGES, SNAP_PX, to_tensor
from dianjing.train.stickers import Stage, World
from dianjing.train.stickers.clips import Clip, Move
from dianjing.train.stickers.matching import Matcher, Reading
from dianjing.train.stickers.scenes import CANVAS_PX, Item
from dianjing.train.stickers.tracking import Tracked, recognise, track

CHANGED = 32  # levels of any colour: less is no change that anyone sees
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One region: which item of the scene, the phrase, the strength 0 to 1."""

    item: int
    phrase: str
    strength: float


@dataclass(frozen=True, kw_only=True)
class Animated:
    """Frames uint8 (F, S, S, 3), and the first as the VAE decodes it, before what stands still takes the picture's."""

    frames: np.ndarray
    decoded_first: np.ndarray


Animate = Callable[[Clip, Sequence[Asked], int], Animated]  # truth, what is asked, seed
Film = Callable[[Clip, str, int], np.ndarray]  # clip, language of its caption, seed -> uint8 (F, S, S, 3)
Figures = dict[str, list[float]]  # values of each name
Judged = tuple[Figures, list[np.ndarray]]  # and the frames of each clip


def scenes(*, moving: int, size_px: int, seed: int, num_frames: int, fps: float) -> Iterator[Clip]:
    """Held-out clips of two or three objects, `moving` of which move, each in its own way."""
    stage = Stage(kinds={"pair": 0.7, "trio": 0.3}, snap_px=(SNAP_PX,))
    world = World(size_px=size_px, stages=[stage], split="held_out")
    for position in count():
        clip = world.click(seed, position, num_frames=num_frames, fps=fps)
        items = [index for index, move in enumerate(clip.moves) if move is not None]
        motions = {clip.moves[index].motion for index in items[:moving]}  # type: ignore[union-attr]
        if len(items) >= moving and len(motions) == moving:
            moves = [move if index in items[:moving] else None for index, move in enumerate(clip.moves)]
            yield replace(clip, moves=tuple(moves))


def asked_of(clip: Clip, language: str, speed: Callable[[str, float], float], *, choice: int) -> list[Asked]:
    """What makes a clip happen; `choice` picks among the phrasings. Strengths are those of the truth, at most 1."""
    asked = []
    for item, (phrases, strength) in enumerate(zip(clip.phrases, clip.strengths, strict=True)):
        if phrases is not None:
            phrasings = phrases[LANGUAGES.index(language)]
            phrase = phrasings[choice % len(phrasings)]
            asked.append(Asked(item=item, phrase=phrase, strength=min(1.0, strength / speed(phrase, 1.0))))
    return asked


def changed_elsewhere(frames: np.ndarray, clip: Clip) -> float:
    """Share of the picture that changes since the first frame and is in no moving object's true track."""
    moving = [index for index, move in enumerate(clip.moves) if move is not None]
    track_ = clip.masks[:, moving].any(axis=(0, 1))
    changed = (np.abs(frames.astype(int) - frames[:1]).max(axis=-1) > CHANGED).any(axis=0)
    return float((changed & ~track_).mean())


def temporal_flickering(frames: np.ndarray) -> float:
    """1 - mean change from frame to frame, on 0 to 1 (VBench's name and measure)."""
    return float(1 - np.abs(np.diff(frames.astype(np.float32), axis=0)).mean() / 255)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: of the ranks; equal values share theirs."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        order = np.asarray(values)
        return np.array([(order < value).sum() + ((order == value).sum() - 1) / 2 for value in order])

    x, y = ranks(a), ranks(b)
    spread = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 0.0


def judge_clicks(
    animate: Animate, speed: Callable[[str, float], float], clips: Sequence[Clip], *, language: str, seed: int
) -> Judged:
    """Of each clip: all that was asked is right, change elsewhere, I1-MSE on 0 to 255.

    i1_mse is of the frames that a user gets, i1_mse_decoded of what the model alone makes of the first one. `seed` is
    that of the first clip and picks its phrasing; the next one has the next seed.
    """
    names = ("motion_right", "changed_elsewhere", "i1_mse", "i1_mse_decoded", "temporal_flickering")
    figures: Figures = {name: [] for name in names}
    shown = []
    for clip_seed, clip in enumerate(clips, start=seed):
        asked = asked_of(clip, language, speed, choice=clip_seed)
        animated = animate(clip, asked, clip_seed)
        frames = animated.frames
        right = all(track(frames, clip, each.item).motion == _motion(clip, each.item) for each in asked)
        first, decoded = (_mse(frame, clip.frames[0]) for frame in (frames[0], animated.decoded_first))
        values = (right, changed_elsewhere(frames, clip), first, decoded, temporal_flickering(frames))
        for name, value in zip(names, values, strict=True):
            figures[name].append(value)
        shown.append(frames)
    return figures, shown


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def _motion(clip: Clip, item: int) -> int | None:
    move = clip.moves[item]
    return None if move is None else move.motion


def judge_strengths(
    animate: Animate, speed: Callable[[str, float], float], clips: Sequence[Clip], *, language: str, seed: int
) -> Judged:
    """Of each clip with one object moving: the rank correlation of strengths asked and amplitudes seen."""
    found, shown = [], []
    for clip_seed, clip in enumerate(clips, start=seed):
        (asked,) = asked_of(clip, language, speed, choice=clip_seed)
        made = [animate(clip, [replace(asked, strength=strength)], clip_seed).frames for strength in STRENGTHS]
        seen = [track(frames, clip, asked.item).amplitude for frames in made]
        found.append(rank_correlation(STRENGTHS, seen))
        shown += made
    return {"rank_correlation": found}, shown


def mask_iou(select: Callable[[np.ndarray, float, float], np.ndarray], clips: Sequence[Clip]) -> float:
    """Median intersection over union of one click's mask and the truth; the click is the object's inmost pixel."""
    import cv2

    found = []
    for clip in clips:
        item = next(index for index, move in enumerate(clip.moves) if move is not None)
        truth = clip.masks[0, item]
        depth = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        mask = select(clip.frames[0], float(x), float(y))
        found.append((mask & truth).sum() / max(1, (mask | truth).sum()))
    return round(float(np.median(found)), 4)


def films(*, size_px: int, seed: int, num_frames: int, fps: float) -> Iterator[Clip]:
    """Held-out clips with captions that say what moves."""
    stage = Stage(kinds={"single": 0.6, "pair": 0.4}, snap_px=(SNAP_PX,))
    world = World(size_px=size_px, stages=[stage], split="held_out")
    return (world.clip(seed, position, num_frames=num_frames, fps=fps) for position in count())


def judge_films(film: Film, matcher: Matcher, clips: Sequence[Clip], *, language: str, seed: int) -> Judged:
    """Of each object: recognised on the first, middle and last frame. Of each that moves: it moves as told.

    An object that is not on the first frame is right in neither, nor are those beside it.
    """
    figures: Figures = {"object_in_every_frame": [], "motion_right": [], "temporal_flickering": []}
    shown = []
    for clip_seed, clip in enumerate(clips, start=seed):
        frames = film(clip, language, clip_seed)
        reading = matcher.read(to_tensor(frames[0]))
        placed = _placed(clip, reading, size_px=matcher.size_px)
        for item in range(len(clip.scene.items)):
            tracked = None if placed is None else track(frames, placed, item)
            if _motion(clip, item) is not None:
                figures["motion_right"].append(tracked is not None and tracked.motion == _motion(clip, item))
            known = placed is not None and tracked is not None and _stays(frames, placed, item, tracked)
            figures["object_in_every_frame"].append(known)
        figures["temporal_flickering"].append(temporal_flickering(frames))
        shown.append(frames)
    return figures, shown


def _stays(frames: np.ndarray, placed: Clip, item: int, tracked: Tracked) -> bool:
    """Whether the object of the first frame is still that object in the middle and at the end, in its pose there."""
    move = None if tracked.motion is None else Move(motion=tracked.motion, amplitude=tracked.amplitude)
    seen = replace(placed, moves=(*placed.moves[:item], move, *placed.moves[item + 1 :]))
    thing = placed.scene.items[item].thing
    return all(recognise(frames[at], seen, item, at) == thing for at in (len(frames) // 2, len(frames) - 1))


def _placed(clip: Clip, reading: Reading, *, size_px: int) -> Clip | None:
    """The clip's scene where a first frame, read at size_px, has it; None if an object is missing."""
    left, items = list(reading.objects), []
    for item in clip.scene.items:
        alike = [each for each in left if each.thing == item.thing]
        match = next((each for each in alike if each.colour == item.colour), alike[0] if alike else None)
        if match is None:
            return None
        left.remove(match)
        ratio = CANVAS_PX // size_px
        place = {"x_px": match.x_px * ratio, "y_px": match.y_px * ratio, "size_px": match.size_px * ratio}
        items.append(Item(thing=match.thing, colour=match.colour, **place))
    return replace(clip, scene=replace(clip.scene, items=tuple(items), background=reading.background))
