"""What real footage tells a click to learn from: which part moves, and how fast, read from its optical flow.

    python -m dianjing.train.data.optical_flow FOLDER --out COLUMNS

For every film of a folder: a mask of what moves (NAME.mask.png) and a line of clips.jsonl with its mean speed.
F frames, H height, W width.
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

from dianjing.pipelines.media.video import ANIMATION_EXTENSIONS, VIDEO_EXTENSIONS, is_video_path, read_video

SUPPORTED_FORMATS = f"{', '.join(VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS)}, or a folder of numbered PNGs each"


def compute_optical_flow(frames: np.ndarray) -> np.ndarray:
    """Where each pixel of (F, H, W, 3) goes until the next frame, in pixels (x, y): float32 (F - 1, H, W, 2).

    Source: Dense Inverse Search (Kroeger et al. 2016, arXiv 1603.03590), as OpenCV has it.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([search.calc(now, then, None) for now, then in pairwise(grey)])  # type: ignore[call-overload]


def compute_motion_mask(flow: np.ndarray) -> np.ndarray:
    """What moves in flow (F - 1, H, W, 2): bool (H, W).

    Each frame's flow is cut at its mean length, and all are united. Source: Follow-Your-Click (arXiv 2403.08268).
    """
    length = np.linalg.norm(flow, axis=-1)
    return (length > length.mean(axis=(1, 2), keepdims=True)).any(axis=0)


def compute_motion_strength(flow: np.ndarray, mask: np.ndarray, *, fps: float) -> float:
    """Mean length of the flow inside a mask (H, W), in picture heights a second; 0 for an empty mask."""
    length = np.linalg.norm(flow, axis=-1)[:, mask]
    return float(length.mean()) * fps / flow.shape[1] if length.size else 0.0


def make_motion_record(path: Path, out: Path) -> dict[str, Any]:
    """Write the mask of a film, and return its line.

    Raises: ValueError for a file that cannot be read or has fewer than two frames.
    """
    film = read_video(path)
    frames = film.frames
    if len(frames) < 2:
        raise ValueError(f"{path} has one frame; motion takes two")
    flow = compute_optical_flow(frames)
    mask = compute_motion_mask(flow)
    mask_path = out / f"{path.stem}.mask.png"
    Image.fromarray(mask).save(mask_path)
    sizes = {"num_frames": len(frames), "fps": film.fps, "height": frames.shape[1], "width": frames.shape[2]}
    return {
        "file": path.name,
        "mask": mask_path.name,
        "strength": compute_motion_strength(flow, mask, fps=film.fps),
        **sizes,
    }


def list_videos(folder: Path) -> list[Path]:
    """Raises: ValueError for a missing folder or one without films."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    films = sorted(path for path in folder.iterdir() if is_video_path(path))
    if not films:
        raise ValueError(f"{folder} holds no film ({SUPPORTED_FORMATS})")
    return films


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.data.optical_flow", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help=f"films: {SUPPORTED_FORMATS}")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips.jsonl and the masks")
    given = parser.parse_args()
    try:
        films = list_videos(given.folder)
    except ValueError as error:
        parser.error(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for path in tqdm(films, unit="film"):
        try:
            lines.append(make_motion_record(path, given.out))
        except ValueError as error:
            tqdm.write(f"left out: {error}")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (given.out / "clips.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(lines)} of {len(films)} films -> {given.out / 'clips.jsonl'}")


if __name__ == "__main__":
    _main()
