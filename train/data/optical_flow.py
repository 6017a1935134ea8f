"""Motion labels for real videos: masks of moving regions and their speed, measured by optical flow.

    python -m dianjing.train.data.optical_flow FOLDER --out COLUMNS

For every video of a folder, write a mask of what moves (NAME.mask.png) and a line of clips.jsonl with its mean speed.
F frames, H height, W width in pixels.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dianjing.errors import DianjingError, get_language
from dianjing.pipelines.media.video import ANIMATION_EXTENSIONS, VIDEO_EXTENSIONS, is_video_path, read_video

SUPPORTED_FORMATS = f"{', '.join(VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS)}, or folders of numbered PNG files"


def compute_optical_flow(frames: np.ndarray) -> np.ndarray:
    """Forward flow (x, y) in pixels from each frame of (F, H, W, 3) to the next: float32 (F - 1, H, W, 2).

    Source: Dense Inverse Search (Kroeger et al. 2016, arXiv 1603.03590), OpenCV's implementation.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([search.calc(now, then, None) for now, then in pairwise(grey)])  # type: ignore[call-overload]


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
    """Write the motion mask of a video, and return its line of clips.jsonl.

    Raises: DianjingError for a file that cannot be read or has fewer than two frames.
    """
    video = read_video(path)
    frames = video.frames
    if len(frames) < 2:
        raise DianjingError("video_single_frame", path=path)
    flow = compute_optical_flow(frames)
    mask = compute_motion_mask(flow)
    mask_path = out / f"{path.stem}.mask.png"
    Image.fromarray(mask).save(mask_path)
    return {
        "file": path.name,
        "mask": mask_path.name,
        "strength": compute_motion_strength(flow, mask, fps=video.fps),
        "num_frames": len(frames),
        "fps": video.fps,
        "height": frames.shape[1],
        "width": frames.shape[2],
    }


def list_videos(folder: Path) -> list[Path]:
    """All videos of a folder, sorted. Raises: DianjingError for a missing folder or one without videos."""
    if not folder.is_dir():
        raise DianjingError("folder_missing", folder=folder)
    paths = sorted(path for path in folder.iterdir() if is_video_path(path))
    if not paths:
        raise DianjingError("folder_without_videos", folder=folder, formats=VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS)
    return paths


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
