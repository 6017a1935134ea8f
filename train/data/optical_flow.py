"""Motion labels for real videos: masks of moving regions and their speed, measured by optical flow.

    python -m dianjing.train.data.optical_flow FOLDER --out COLUMNS

For every video of a folder, write a mask of what moves (NAME.mask.png) and a line of clips.jsonl with its mean speed.
F frames, H height, W width in pixels.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dianjing.errors import DianjingError, get_language
from dianjing.pipelines.media.video_reading import (
    ANIMATION_EXTENSIONS,
    VIDEO_EXTENSIONS,
    inspect_video,
    is_video_path,
    iterate_frames,
)

SUPPORTED_FORMATS = f"{', '.join(VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS)}, or folders of numbered PNG files"


def compute_optical_flow(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Forward flow (x, y) in pixels from each frame of (F, H, W, 3) to the next: float32 (F - 1, H, W, 2)."""
    return np.stack(list(iterate_optical_flow(frames)))


def iterate_optical_flow(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the forward flow (x, y) in pixels from each frame (H, W, 3) to the next: float32 (H, W, 2).

    Source: Dense Inverse Search (Kroeger et al. 2016, arXiv 1603.03590), OpenCV's implementation.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    for now, then in pairwise(grey):
        yield search.calc(now, then, None)  # type: ignore[call-overload]


def compute_motion_mask(flow: np.ndarray) -> np.ndarray:
    """The region that moves in a flow (F - 1, H, W, 2): bool (H, W).

    The flow of each frame is thresholded at its mean length, and the results of all frames are united.
    Source: Follow-Your-Click (arXiv 2403.08268).
    """
    length = np.linalg.norm(flow, axis=-1)
    return (length > length.mean(axis=(1, 2), keepdims=True)).any(axis=0)


def compute_motion_strength(flow: np.ndarray, mask: np.ndarray, *, fps: float) -> float:
    """Mean length of the flow (F - 1, H, W, 2) inside a mask (H, W), in image heights per second; 0 if it is empty."""
    length = np.linalg.norm(flow, axis=-1)[:, mask]
    return float(length.mean()) * fps / flow.shape[1] if length.size else 0.0


def make_motion_record(path: Path, out: Path) -> dict[str, Any]:
    """Write the motion mask of a video, and return its line of clips.jsonl; few frames are in memory at a time.

    Raises: DianjingError for a file that cannot be read or has fewer than two frames.
    """
    info = inspect_video(path, name=str(path))
    if info.num_frames < 2:
        raise DianjingError("video_single_frame", path=path)
    mask, total_length = np.zeros((2, info.height, info.width))
    for flow in iterate_optical_flow(frame.get_pixels() for frame in iterate_frames(path, name=str(path))):
        mask = np.maximum(mask, compute_motion_mask(flow[None]))
        total_length += np.linalg.norm(flow, axis=-1)
    is_moving = mask > 0
    mask_path = out / f"{path.stem}.mask.png"
    Image.fromarray(is_moving).save(mask_path)
    mean_fps = info.num_frames / info.duration_s
    mean_length = total_length[is_moving].mean() / (info.num_frames - 1) if is_moving.any() else 0.0
    return {
        "file": path.name,
        "mask": mask_path.name,
        "strength": float(mean_length) * mean_fps / info.height,
        "num_frames": info.num_frames,
        "fps": mean_fps,
        "height": info.height,
        "width": info.width,
    }


def list_videos(folder: Path) -> list[Path]:
    """All videos of a folder, sorted. Raises: DianjingError for a missing folder or one without videos."""
    if not folder.is_dir():
        raise DianjingError("folder_missing", folder=folder)
    paths = sorted(path for path in folder.iterdir() if _is_video(path))
    if not paths:
        raise DianjingError("folder_without_videos", folder=folder, formats=VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS)
    return paths


def _is_video(path: Path) -> bool:
    """True for what is a video, and for what cannot be read as the animation that its name promises."""
    if path.is_file() and path.suffix.lower() in (".gif", ".webp", ".apng"):
        return True
    try:
        return is_video_path(path)
    except DianjingError:
        return True


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.data.optical_flow", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help=f"folder of videos: {SUPPORTED_FORMATS}")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips.jsonl and the masks")
    arguments = parser.parse_args()
    try:
        paths = list_videos(arguments.folder)
    except DianjingError as error:
        parser.error(error.render(get_language()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = []
    for path in tqdm(paths, unit="video"):
        try:
            records.append(make_motion_record(path, arguments.out))
        except DianjingError as error:
            tqdm.write(f"skipped: {error.render(get_language())}")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (arguments.out / "clips.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(records)} of {len(paths)} videos -> {arguments.out / 'clips.jsonl'}")


if __name__ == "__main__":
    _main()
