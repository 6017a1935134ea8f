"""Comparison of generated videos with real ones of the same names, for any model.

    python -m dianjing.train.evaluation.compare_videos GENERATED REAL --out comparison.json

Both folders hold videos (a video file, WebP, GIF or folder of PNGs each); those with the same name, apart from the
extension, are pairs: the first frame of the real one is the image that the generated one starts from. Motion is
measured by optical flow. --clip-model adds temporal consistency and text alignment by a CLIP model, --video-model a
Fréchet video distance.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from dianjing.errors import DianjingError
from dianjing.pipelines.media.video_reading import iterate_frames, read_video
from dianjing.train.data.optical_flow import compute_motion_mask, compute_optical_flow, list_videos
from dianjing.train.evaluation.settings import exit_on_user_error
from dianjing.train.evaluation.video_metrics import MIN_VISIBLE_CHANGE, measure_temporal_flickering

NUM_NAMED_EXAMPLES = 3
VideoPair = tuple[np.ndarray, np.ndarray]  # generated and real, uint8 (F, H, W, 3) of one size and length


def find_pairs(generated: Path, real: Path) -> dict[str, tuple[Path, Path]]:
    """Find the videos that two folders share: name -> paths of the generated and of the real one.

    Raises: DianjingError if there is none.
    """
    by_name = [{path.stem: path for path in list_videos(folder)} for folder in (generated, real)]
    shared = sorted(set(by_name[0]) & set(by_name[1]))
    if not shared:
        examples = sorted(by_name[0])[:NUM_NAMED_EXAMPLES]
        raise DianjingError("no_videos_of_the_same_name", generated=generated, examples=examples, real=real)
    return {name: (by_name[0][name], by_name[1][name]) for name in shared}


def read_pair(generated: Path, real: Path) -> VideoPair:
    """Read both videos, the real one resized to the generated one, both cut to the shorter one.

    Raises: DianjingError for a file that cannot be read, and for fewer than two common frames.
    """
    first = read_video(generated).frames
    height, width = first.shape[1:3]
    resized = [
        cv2.resize(frame.get_pixels(), (width, height), interpolation=cv2.INTER_AREA)
        for frame in islice(iterate_frames(real, name=str(real)), len(first))
    ]
    if len(resized) < 2:
        raise DianjingError("too_few_common_frames", generated=generated, real=real, count=len(resized))
    return first[: len(resized)], np.stack(resized)


def compute_pair_metrics(generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Compute the metrics of a pair, uint8 (F, H, W, 3) each, that need no weights.

    i1_mse: mean squared error of the first frames, on 0 to 255. motion_magnitude: mean length of the flow where the
    real video moves, in image heights per frame. motion_direction_cosine: cosine between both mean flows there.
    outside_change: share of the image that changes where nothing moves in the real video. temporal_flickering: see
    `measure_temporal_flickering`.
    """
    flows = [compute_optical_flow(video) for video in (generated, real)]
    is_moving = compute_motion_mask(flows[1])
    magnitudes = [float(np.linalg.norm(flow, axis=-1)[:, is_moving].mean()) / generated.shape[1] for flow in flows]
    mean_flows = [flow[:, is_moving].mean(axis=(0, 1)) for flow in flows]
    lengths = float(np.linalg.norm(mean_flows[0]) * np.linalg.norm(mean_flows[1]))
    has_changed = (np.abs(generated.astype(int) - generated[:1]).max(axis=-1) > MIN_VISIBLE_CHANGE).any(axis=0)
    return {
        "i1_mse": float(np.square(generated[0].astype(float) - real[0]).mean()),
        "motion_magnitude": magnitudes[0],
        "motion_magnitude_real": magnitudes[1],
        "motion_direction_cosine": float(mean_flows[0] @ mean_flows[1]) / lengths if lengths else 0.0,
        "outside_change": float((has_changed & ~is_moving).mean()),
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
    """Compute the mean metrics over all pairs that can be read.

    captions: name -> caption, for text alignment. clip_model, video_model: folders or Hub ids; None: without their
    metrics. report_skipped: receives the reason for each pair that is skipped.
    Raises: DianjingError if no pair can be read, or if torchmetrics is needed and missing.
    """
    from dianjing.train.evaluation.pretrained_metrics import CLIPMetrics, compute_frechet_video_distance

    clip_metrics = None if clip_model is None else CLIPMetrics(clip_model)
    metrics: list[dict[str, float]] = []
    videos: list[VideoPair] = []
    for name, paths in tqdm(pairs.items(), unit="pair"):
        try:
            generated, real = read_pair(*paths)
        except DianjingError as error:
            report_skipped(f"skipped {name}: {error}")
            continue
        of_pair = compute_pair_metrics(generated, real)
        if clip_metrics is not None:
            of_pair["clip_temporal_consistency"] = clip_metrics.measure_temporal_consistency(generated)
            if name in captions:
                of_pair["clip_text_alignment"] = clip_metrics.measure_text_alignment(generated, captions[name])
        metrics.append(of_pair)
        if video_model is not None:
            videos.append((generated, real))
    if not metrics:
        raise DianjingError("no_readable_video_pair", count=len(pairs))
    report: dict[str, Any] = {"pairs": len(metrics)}
    for name in dict.fromkeys(name for of_pair in metrics for name in of_pair):
        report[name] = round(float(np.mean([of_pair[name] for of_pair in metrics if name in of_pair])), 4)
    if video_model is not None:
        both = [generated for generated, _ in videos], [real for _, real in videos]
        report["frechet_video_distance"] = round(compute_frechet_video_distance(*both, video_model), 4)
    return report


def read_captions(path: Path | None) -> dict[str, str]:
    """Read a JSON object that maps names of videos to captions; None gives no captions.

    Raises: DianjingError for any other content.
    """
    if path is None:
        return {}
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DianjingError("captions_file_unreadable", path=path, reason=str(error)) from None
    if not isinstance(captions, dict):
        raise DianjingError("captions_file_holds_no_object", path=path)
    return {str(name): str(caption) for name, caption in captions.items()}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.evaluation.compare_videos", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("generated", type=Path, help="folder of generated videos")
    parser.add_argument("real", type=Path, help="folder of real videos to compare them with")
    parser.add_argument("--captions", type=Path, help='JSON {"name": "caption"}, for text alignment')
    parser.add_argument("--clip-model", help="folder or Hub id of a CLIP model")
    parser.add_argument("--video-model", help="folder or Hub id of a video model, such as VideoMAE")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _main(argv: Sequence[str] | None = None) -> None:
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    with exit_on_user_error(parser):
        report = compare_videos(
            find_pairs(arguments.generated, arguments.real),
            captions=read_captions(arguments.captions),
            clip_model=arguments.clip_model,
            video_model=arguments.video_model,
            report_skipped=tqdm.write,
        )
    text = json.dumps(report, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    _main()
