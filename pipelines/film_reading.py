"""The frames of a film's file, whoever made it: a video, an animated WebP or GIF, or a folder of numbered PNGs.

F frames, H height, W width.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from dianjing.pipelines.fitting import check_picture_size

VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
ANIMATIONS = (".webp", ".gif")
MOST_FRAMES = 2000
STILL_FPS = 8.0  # of frames in a folder, which do not say


@dataclass(frozen=True, kw_only=True)
class ReadFilm:
    """frames: uint8 (F, H, W, 3)."""

    frames: np.ndarray
    fps: float


def is_film(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS + ANIMATIONS if path.is_file() else any(path.glob("*.png"))


def read_film(path: Path, *, most_frames: int = MOST_FRAMES) -> ReadFilm:
    """The first frames of a film, at most `most_frames`.

    Raises: ValueError for what cannot be read as one.
    """
    if path.is_dir():
        return _checked(partial(_read_folder, path, most_frames), name=str(path))
    kind = _read_animation if path.suffix.lower() in ANIMATIONS else _read_video
    return _checked(partial(kind, str(path), most_frames), name=str(path))


def decode_film(content: bytes, *, name: str, most_frames: int = MOST_FRAMES) -> ReadFilm:
    """As `read_film`, of a file's bytes; the ending of its name says what it is.

    Raises: ValueError for what cannot be read as a film.
    """
    kind = _read_animation if name.lower().endswith(ANIMATIONS) else _read_video
    return _checked(partial(kind, BytesIO(content), most_frames), name=name)


def _checked(read: Callable[[], tuple[list[np.ndarray], float]], *, name: str) -> ReadFilm:
    try:
        frames, fps = read()
    except FileNotFoundError:
        raise ValueError(f"there is no file {name}") from None
    except (OSError, SyntaxError, ValueError) as error:  # av's errors are OSErrors and ValueErrors
        raise ValueError(f"{name} cannot be read as a film: {error}") from None
    if not frames:
        raise ValueError(f"{name} holds no frame")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"{name} has frames of several sizes")
    return ReadFilm(frames=np.stack(frames), fps=fps)


def _read_video(source: str | BinaryIO, most_frames: int) -> tuple[list[np.ndarray], float]:
    import av

    with av.open(source) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError("it has no pictures")
        check_picture_size(stream.codec_context.width, stream.codec_context.height)
        shown = (frame.to_ndarray(format="rgb24") for frame in container.decode(stream))
        frames = list(islice(shown, most_frames))
        return frames, float(stream.average_rate or STILL_FPS)


def _read_animation(source: str | BinaryIO, most_frames: int) -> tuple[list[np.ndarray], float]:
    durations = []

    def shown(image: Image.Image) -> Iterator[np.ndarray]:
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(frame.convert("RGB"))  # loads the frame, and with it how long it is shown
            durations.append(frame.info.get("duration", 0))
            yield pixels

    with closing(Image.open(source, formats=("WEBP", "GIF"))) as image:
        check_picture_size(*image.size)
        frames = list(islice(shown(image), most_frames))
    total = sum(durations)
    return frames, 1000 * len(frames) / total if total else STILL_FPS


def _read_folder(path: Path, most_frames: int) -> tuple[list[np.ndarray], float]:
    frames = []
    for file in sorted(path.glob("*.png"))[:most_frames]:
        with Image.open(file, formats=("PNG",)) as image:
            check_picture_size(*image.size)
            frames.append(np.asarray(image.convert("RGB")))
    return frames, STILL_FPS
