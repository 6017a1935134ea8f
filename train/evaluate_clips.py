"""How well a model moves what it is told to, measured against the exact truth of the sticker world.

    python -m dianjing.train.evaluate_clips --model sticker --count 100 --out report

Scenes are of combinations that training never shows, Chinese and English apart. One click, two clicks and words to
film; how an object moved is read by comparing it with that object in every motion (stickers.tracking). Where VBench
(Huang et al. 2023, arXiv 2311.17982) has a name for a figure, it is used. Writes clips.json and clips.png.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from dianjing.train.evaluate import LANGUAGES, SNAP_PX, to_tensor
from dianjing.train.pictures import tile
from dianjing.train.stickers import Stage, World
from dianjing.train.stickers.clips import Clip, Move
from dianjing.train.stickers.matching import Matcher, Seen
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


CEILING = "ceiling"  # in place of a language: the truth itself, read by the same judges
Animate = Callable[[Clip, Sequence[Asked], int], Animated]  # truth, what is asked, seed
Film = Callable[[Clip, str, int], np.ndarray]  # clip, language of its caption, seed -> uint8 (F, S, S, 3)


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
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Means over clips: all that was asked right, change elsewhere, I1-MSE on 0 to 255; and the frames.

    i1_mse is of the frames that a user gets, i1_mse_decoded of what the model alone makes of the first one.
    """
    right, elsewhere, first, decoded, flickering, shown = [], [], [], [], [], []
    for index, clip in enumerate(tqdm(clips, desc=f"clicks {language}", unit="clip")):
        asked = asked_of(clip, language, speed, choice=index)
        animated = animate(clip, asked, seed + index)
        frames = animated.frames
        right.append(all(track(frames, clip, each.item).motion == _motion(clip, each.item) for each in asked))
        elsewhere.append(changed_elsewhere(frames, clip))
        first.append(_mse(frames[0], clip.frames[0]))
        decoded.append(_mse(animated.decoded_first, clip.frames[0]))
        flickering.append(temporal_flickering(frames))
        shown.append(frames)
    figures: dict[str, Sequence[float]] = {"motion_right": right, "changed_elsewhere": elsewhere, "i1_mse": first}
    figures["i1_mse_decoded"] = decoded
    figures["temporal_flickering"] = flickering
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}, shown


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


def _motion(clip: Clip, item: int) -> int | None:
    move = clip.moves[item]
    return None if move is None else move.motion


def strength_response(
    animate: Animate, speed: Callable[[str, float], float], clips: Sequence[Clip], *, seed: int
) -> float:
    """Mean rank correlation of asked strength and amplitude seen, a clip at a time, one object moving."""
    found = []
    for index, clip in enumerate(tqdm(clips, desc="strengths", unit="clip")):
        (asked,) = asked_of(clip, "en", speed, choice=0)
        seen = [
            track(animate(clip, [replace(asked, strength=strength)], seed + index).frames, clip, asked.item).amplitude
            for strength in STRENGTHS
        ]
        found.append(rank_correlation(STRENGTHS, seen))
    return round(float(np.mean(found)), 4)


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


def judge_films(
    film: Film, matcher: Matcher, clips: Sequence[Clip], *, language: str, seed: int
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Share of objects recognised on the first, middle and last frame; share of moving ones that move as told.

    An object that is not on the first frame is right in neither, nor are those beside it.
    """
    known, right, flickering, shown = [], [], [], []
    for index, clip in enumerate(tqdm(clips, desc=f"films {language}", unit="clip")):
        frames = film(clip, language, seed + index)
        reading = matcher.read(to_tensor(frames[0]))
        placed = _placed(clip, reading.objects, reading.background)
        for item in range(len(clip.scene.items)):
            tracked = None if placed is None else track(frames, placed, item)
            if _motion(clip, item) is not None:
                right.append(tracked is not None and tracked.motion == _motion(clip, item))
            known.append(placed is not None and tracked is not None and _stays(frames, placed, item, tracked))
        flickering.append(temporal_flickering(frames))
        shown.append(frames)
    figures: dict[str, Sequence[float]] = {
        "object_in_every_frame": known,
        "motion_right": right,
        "temporal_flickering": flickering,
    }
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}, shown


def _stays(frames: np.ndarray, placed: Clip, item: int, tracked: Tracked) -> bool:
    """Whether the object of the first frame is still that object in the middle and at the end, in its pose there."""
    move = None if tracked.motion is None else Move(motion=tracked.motion, amplitude=tracked.amplitude)
    seen = replace(placed, moves=(*placed.moves[:item], move, *placed.moves[item + 1 :]))
    thing = placed.scene.items[item].thing
    return all(recognise(frames[at], seen, item, at) == thing for at in (len(frames) // 2, len(frames) - 1))


def _placed(clip: Clip, seen: Sequence[Seen], background: int) -> Clip | None:
    """The clip's scene where a first frame has it; None if an object is missing."""
    left, items = list(seen), []
    for item in clip.scene.items:
        match = next((each for each in left if each.thing == item.thing), None)
        if match is None:
            return None
        left.remove(match)
        ratio = CANVAS_PX // clip.size_px
        place = {"x_px": match.x_px * ratio, "y_px": match.y_px * ratio, "size_px": match.size_px * ratio}
        items.append(Item(thing=match.thing, colour=match.colour, **place))
    return replace(clip, scene=replace(clip.scene, items=tuple(items), background=background))


def with_pipelines(model: str, device: str, settings: dict[str, Any]) -> tuple[Any, Animate, Film]:
    """Both pipelines over one model, as the judges call them; the first is the one for clicks."""
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline
    from dianjing.pipelines.regions import Region
    from dianjing.pipelines.stillness import keep_still
    from dianjing.pipelines.text_to_video import TextToVideoPipeline

    clicks: Any = ImageToVideoPipeline.from_pretrained(model).to(device)
    words: Any = TextToVideoPipeline(**clicks.components, **{k: v for k, v in clicks.config.items() if "default" in k})
    for pipe in (clicks, words):
        pipe.set_progress_bar_config(disable=True)

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def animate(clip: Clip, asked: Sequence[Asked], seed: int) -> Animated:
        regions = [Region(motion=each.phrase, mask=clip.masks[0, each.item], strength=each.strength) for each in asked]
        sizes = {"num_frames": clip.num_frames, "fps": clip.fps, "generator": generator(seed)}
        latents = clicks(clip.frames[0], regions, output_type="latent", **sizes, **settings).frames
        (decoded,) = clicks.decode(latents)
        return Animated(frames=keep_still(decoded, clip.frames[0]), decoded_first=decoded[0])

    def film(clip: Clip, language: str, seed: int) -> np.ndarray:
        prompt = clip.text_zh if language == "zh" else clip.text_en
        return words(prompt, output_type="uint8", generator=generator(seed), **settings).frames[0]

    return clicks, animate, film


def true_clip(clip: Clip, asked: Sequence[Asked], seed: int) -> Animated:
    return Animated(frames=clip.frames, decoded_first=clip.frames[0])


def true_film(clip: Clip, language: str, seed: int) -> np.ndarray:
    return clip.frames


def first(clips: Iterator[Clip], number: int) -> list[Clip]:
    return list(islice(clips, number))


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.evaluate_clips", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--count", type=int, default=100, help="clips a row and language (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, default=None, help="guidance scale (default: the model's)")
    parser.add_argument("--only", choices=("clicks", "two_clicks", "strength", "masks", "films"), action="append")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("report"))
    given = parser.parse_args()

    settings = {"num_inference_steps": given.steps, "guidance_scale": given.guidance}
    pipe, animate, film = with_pipelines(given.model, given.device, settings)
    size_px = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    world = {"size_px": size_px, "seed": given.seed}
    world |= {"num_frames": pipe.config.default_num_frames, "fps": pipe.config.default_fps}
    wanted, speed = given.only or ["clicks", "two_clicks", "strength", "masks", "films"], pipe.motions.speed
    report: dict[str, Any] = {"model": given.model, "clips_a_language": given.count, **settings}
    shown: list[np.ndarray] = []
    for name, moving in (("clicks", 1), ("two_clicks", 2)):
        if name in wanted:
            clips = first(scenes(moving=moving, **world), given.count)
            for language, draw in (*((each, animate) for each in LANGUAGES), (CEILING, true_clip)):
                spoken = "en" if language == CEILING else language
                figures, made = judge_clicks(draw, speed, clips, language=spoken, seed=given.seed)
                report.setdefault(name, {})[language] = figures
                shown += made[:4] if language != CEILING else []
    if "strength" in wanted:
        clips = first(scenes(moving=1, **world), max(1, given.count // 5))
        report["strength_rank_correlation"] = strength_response(animate, speed, clips, seed=given.seed)
    if "masks" in wanted:
        from dianjing.pipelines.segmenting import GrabCut, Point

        def select(picture: np.ndarray, x: float, y: float) -> np.ndarray:
            cut = GrabCut()
            cut.look(picture)
            return cut.mask([Point(x=x, y=y)])

        report["mask_iou_median"] = mask_iou(select, first(scenes(moving=1, **world), given.count))
    if "films" in wanted:
        matcher = Matcher(size_px=size_px, device=given.device)
        clips = first(films(**world), given.count)
        for language, make in (*((each, film) for each in LANGUAGES), (CEILING, true_film)):
            figures, made = judge_films(make, matcher, clips, language=language, seed=given.seed)
            report.setdefault("films", {})[language] = figures
            shown += made[:4] if language != CEILING else []
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "clips.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if shown:
        rows = torch.from_numpy(np.concatenate(shown))
        Image.fromarray(tile(rows, columns=world["num_frames"])).save(given.out / "clips.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
