"""Reading of videos, animations and folders of numbered PNGs as a stream of frames at their own times.

F frames, H height, W width; pixels are uint8 (H, W, 3), upright, transparent parts over white.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import report_damage
from dianjing.pipelines.media.video_decoding import (
    ANIMATION_FORMATS,
    TimedFrame,
    iterate_animation,
    iterate_folder,
    iterate_video,
)

VIDEO_EXTENSIONS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
ANIMATION_EXTENSIONS = (".webp", ".gif", ".png", ".apng", ".avif")  # if they have several frames
ANIMATION_SIGNATURES = (rb"GIF8", rb"\x89PNG", rb"RIFF....WEBP", rb"....ftyp(avif|avis)")
HEAD_BYTES = 16  # that the signatures are in
MAX_FRAMES = 2000
TIME_TOLERANCE_S = 0.005  # of frame times, which GIF rounds to hundredths of a second


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Upright size in px, number of frames, duration, and the frame rate of at least half of the frames."""

    width: int
    height: int
    num_frames: int
    duration_s: float
    fps: float

    def count_resampled_frames(self, fps: float) -> int:
        """The number of frames that `resample_frames` yields of the whole video."""
        return max(1, math.ceil((self.duration_s - TIME_TOLERANCE_S) * fps - 1e-9))


@dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """Frames uint8 (F, H, W, 3), the time that each begins at, and their average rate."""

    frames: np.ndarray
    times_s: tuple[float, ...]
    fps: float


def is_video_path(path: Path) -> bool:
    """True for a video, for an image file with several frames, and for a folder with PNGs.

    Raises: DianjingError for an image file with a damaged header.
    """
    if path.is_dir():
        return any(path.glob("*.png"))
    return path.is_file() and is_video(path, name=path.name)


def is_video(file: Path | BinaryIO, *, name: str) -> bool:
    """True for an image file with several frames, and for any other file with the extension of a video.

    Raises: DianjingError for an image file with a damaged header.
    """
    with report_damage("image_unreadable", name=name):
        if not _is_animation_format(file):
            return name.lower().endswith(VIDEO_EXTENSIONS)
        with Image.open(file, formats=ANIMATION_FORMATS) as image:
            return getattr(image, "n_frames", 1) > 1


def _is_animation_format(file: Path | BinaryIO) -> bool:
    """True for an image format that may hold several frames, by the first bytes of the file."""
    with ExitStack() as stack:
        opened = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        opened.seek(0)
        head = opened.read(HEAD_BYTES)
        opened.seek(0)
    return any(re.match(signature, head, re.DOTALL) for signature in ANIMATION_SIGNATURES)


def iterate_frames(file: Path | BinaryIO, *, name: str, start_s: float = 0.0) -> Iterator[TimedFrame]:
    """Yield the frames of a video, an animation or a folder of numbered PNGs, with few of them in memory at a time.

    start_s: frames that end before this time may be left out.
    Raises: DianjingError for anything that cannot be read as a video, is too large or has frames of several sizes.
    """
    has_frames = False
    with report_damage("video_unreadable", name=name):
        if isinstance(file, Path) and file.is_dir():
            frames = iterate_folder(file)
        elif _is_animation_format(file):
            frames = iterate_animation(file, name=name)
        else:
            frames = iterate_video(file, name=name, start_s=start_s)
        for frame in frames:
            has_frames = True
            yield frame
    if not has_frames and not start_s:
        raise DianjingError("video_file_without_frames", path=name)


def resample_frames(
    frames: Iterable[TimedFrame], *, fps: float, start: int = 0, stop: int | None = None
) -> Iterator[TimedFrame]:
    """Yield for each index k from `start` to `stop`, None for the end, the frame that is shown at k / fps.

    The last frame is shown until its own end, so that a video of d seconds has d fps frames, and at least one.
    """
    index = start
    for frame in frames:
        end_s = frame.start_s + frame.duration_s
        while index != stop and index / fps + (TIME_TOLERANCE_S if index else 0) < end_s - 1e-9 / fps:
            yield replace(frame, start_s=index / fps, duration_s=1 / fps)
            index += 1
        if index == stop:
            return


def inspect_video(file: Path | BinaryIO, *, name: str) -> VideoInfo:
    """Decode a whole video, one frame at a time. Raises: DianjingError as `iterate_frames`."""
    durations_s, end_s, shape = [], 0.0, None
    for frame in iterate_frames(file, name=name):
        if shape is None:
            shape = frame.get_pixels().shape
        durations_s.append(frame.duration_s)
        end_s = frame.start_s + frame.duration_s
    assert shape is not None, "a video without frames is refused"
    fps = 1 / float(np.median(durations_s))
    return VideoInfo(width=shape[1], height=shape[0], num_frames=len(durations_s), duration_s=end_s, fps=fps)


def read_video(path: Path, *, max_frames: int = MAX_FRAMES) -> DecodedVideo:
    """Read the first frames of a video, an animation or a folder of numbered PNGs into memory.

    Raises: DianjingError as `iterate_frames`.
    """
    pixels, times_s, end_s = [], [], 0.0
    for frame in islice(iterate_frames(path, name=str(path)), max_frames):
        pixels.append(frame.get_pixels())
        times_s.append(frame.start_s)
        end_s = frame.start_s + frame.duration_s
    return DecodedVideo(frames=np.stack(pixels), times_s=tuple(times_s), fps=len(pixels) / end_s)
