"""How films that a model made compare with real ones of the same names, whatever made them.

    python -m dianjing.train.evaluation.compare_videos MADE REAL --out comparison.json

Both folders hold films (a video, WebP, GIF or folder of PNGs each); those of the same name, but for the ending, are
pairs: the real one's first frame is the picture that the made one starts from. Motion is read by optical flow.
--clip-model adds the temporal and text scores of a CLIP model, --video-model a Fréchet video distance.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from dianjing.pipelines.media.video import read_video
from dianjing.train.data.optical_flow import compute_motion_mask, compute_optical_flow, list_videos
from dianjing.train.evaluation.video_metrics import MIN_VISIBLE_CHANGE, measure_temporal_flickering

VideoPair = tuple[np.ndarray, np.ndarray]  # made and real, uint8 (F, H, W, 3) of one size and length


def find_pairs(generated: Path, real: Path) -> dict[str, tuple[Path, Path]]:
    """Films of both folders by name.

    Raises: ValueError if there is none, naming what has no partner.
    """
    by_name = [{path.stem: path for path in list_videos(folder)} for folder in (generated, real)]
    shared = sorted(set(by_name[0]) & set(by_name[1]))
    if not shared:
        names = ", ".join(sorted(by_name[0])[:3])
        raise ValueError(f"no film of {generated} ({names}, ...) has the name of one in {real}")
    return {name: (by_name[0][name], by_name[1][name]) for name in shared}


def read_pair(generated: Path, real: Path) -> VideoPair:
    """Both films at the made one's size, cut to the shorter one's length."""
    first, second = read_video(generated).frames, read_video(real).frames
    length = min(len(first), len(second))
    if length < 2:
        raise ValueError(f"{generated} and {real} share {length} frame; motion takes two")
    height, width = first.shape[1:3]
    fitted = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in second[:length]]
    return first[:length], np.stack(fitted)


def compute_pair_metrics(generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """What can be said of a pair without any weights.

    i1_mse: of the first frames, on 0 to 255. motion_size: mean flow where the real film moves, in picture heights a
    frame. motion_direction: cosine of both mean flows there. changed_elsewhere: the share of the picture that changes
    where nothing moves in the real film.
    """
    flows = [compute_optical_flow(film) for film in (generated, real)]
    moving = compute_motion_mask(flows[1])
    sizes = [float(np.linalg.norm(flow, axis=-1)[:, moving].mean()) / generated.shape[1] for flow in flows]
    ways = [flow[:, moving].mean(axis=(0, 1)) for flow in flows]
    lengths = float(np.linalg.norm(ways[0]) * np.linalg.norm(ways[1]))
    changed = (np.abs(generated.astype(int) - generated[:1]).max(axis=-1) > MIN_VISIBLE_CHANGE).any(axis=0)
    return {
        "i1_mse": float(np.square(generated[0].astype(float) - real[0]).mean()),
        "motion_magnitude": sizes[0],
        "motion_magnitude_real": sizes[1],
        "motion_direction_cosine": float(ways[0] @ ways[1]) / lengths if lengths else 0.0,
        "outside_change": float((changed & ~moving).mean()),
        "temporal_flickering": measure_temporal_flickering(generated),
        "temporal_flickering_real": measure_temporal_flickering(real),
    }


def compare_videos(
    pairs: Mapping[str, tuple[Path, Path]],
    *,
    captions: Mapping[str, str],
    clip_model: str | None,
    video_model: str | None,
    report_skipped: Callable[[str], None],
) -> dict[str, Any]:
    """Means over the pairs that can be read; `say` hears of the others."""
    from dianjing.train.evaluation.pretrained_metrics import CLIPMetrics, compute_frechet_video_distance

    clip = None if clip_model is None else CLIPMetrics(clip_model)
    found: list[dict[str, float]] = []
    films: list[VideoPair] = []
    for name, paths in tqdm(pairs.items(), unit="pair"):
        try:
            made, real = read_pair(*paths)
        except ValueError as error:
            report_skipped(f"left out: {error}")
            continue
        figures = compute_pair_metrics(made, real)
        if clip is not None:
            figures["clip_temporal_consistency"] = clip.measure_temporal_consistency(made)
            if name in captions:
                figures["clip_text_alignment"] = clip.measure_text_alignment(made, captions[name])
        found.append(figures)
        if video_model is not None:
            films.append((made, real))
    if not found:
        raise ValueError("not one pair of films could be read")
    report: dict[str, Any] = {"pairs": len(found)}
    for name in dict.fromkeys(name for figures in found for name in figures):
        report[name] = round(float(np.mean([figures[name] for figures in found if name in figures])), 4)
    if video_model is not None:
        both = [made for made, _ in films], [real for _, real in films]
        report["frechet_video_distance"] = round(compute_frechet_video_distance(*both, video_model), 4)
    return report


def read_captions(path: Path | None) -> dict[str, str]:
    """A JSON object: name of a film to what it should show."""
    if path is None:
        return {}
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(captions, dict):
        raise ValueError(f'{path} holds no object {{"name": "caption", ...}}')
    return {str(name): str(caption) for name, caption in captions.items()}


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.compare_videos", description=__doc__.split("\n")[0]
    )
    parser.add_argument("made", type=Path, help="folder of films to be judged")
    parser.add_argument("real", type=Path, help="folder of films to compare them with")
    parser.add_argument("--captions", type=Path, help='JSON {"name": "caption"}, for the text score')
    parser.add_argument("--clip-model", help="folder or Hub id of a CLIP model")
    parser.add_argument("--video-model", help="folder or Hub id of a video model, such as VideoMAE")
    parser.add_argument("--out", type=Path, help="write the figures here too")
    given = parser.parse_args(arguments)
    try:
        models = {"clip_model": given.clip_model, "video_model": given.video_model}
        captions = read_captions(given.captions)
        report = compare_videos(
            find_pairs(given.made, given.real), captions=captions, **models, report_skipped=tqdm.write
        )
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    text = json.dumps(report, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    _main()
