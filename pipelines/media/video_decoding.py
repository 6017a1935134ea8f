"""Decoders of videos, animations and folders of numbered PNGs, as streams of frames with their times.

H height, W width; pixels are uint8 (H, W, 3), upright, transparent parts over white.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from dianjing.errors import DianjingError
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.image import check_image_size, open_image, read_image_metadata, report_damage

ANIMATION_FORMATS = ("WEBP", "GIF", "PNG", "AVIF")
DEFAULT_FPS = 8.0  # of numbered PNGs that do not say
# browsers show frames of 10 ms and less for 100 ms, since many files have no durations
MIN_DURATION_MS, DEFAULT_DURATION_MS = 11, 100
# neither playlists, which name further files, nor anything but the opened file
CONTAINER_OPTIONS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": ""}
SEEK_MARGIN_S = 0.5  # keyframes are found by the time of decoding, which is before that of showing
VPX_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave out the alpha channel


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A frame that is shown for `duration_s` from `start_s` on; its pixels (H, W, 3) are converted when asked for."""

    start_s: float
    duration_s: float
    get_pixels: Callable[[], np.ndarray]


def iterate_folder(folder: Path) -> Iterator[TimedFrame]:
    """Yield the PNGs of a folder in the order of their numbers, at the frame rate that their metadata name, if any."""
    paths = sorted(folder.glob("*.png"), key=lambda path: [int(n) if n.isdigit() else n for n in _split(path.name)])
    duration_s, size = 1 / _read_fps(paths[0]) if paths else 0, None
    for index, path in enumerate(paths):
        image = open_image(path)
        if size not in (None, image.size):
            raise DianjingError("frames_of_several_sizes", path=folder)
        size = image.size
        yield TimedFrame(start_s=index * duration_s, duration_s=duration_s, get_pixels=partial(np.asarray, image))


def _split(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _read_fps(path: Path) -> float:
    try:
        fps = read_image_metadata(path).settings.get("fps")
    except DianjingError:
        return DEFAULT_FPS
    return float(fps) if isinstance(fps, int | float) and fps > 0 else DEFAULT_FPS


def iterate_animation(file: Path | BinaryIO, *, name: str) -> Iterator[TimedFrame]:
    """Yield the frames of a GIF, WebP, AVIF or animated PNG."""
    start_s = 0.0
    # Pillow itself: imageio cannot limit it to these formats, and some others run programs
    with Image.open(file, formats=ANIMATION_FORMATS) as image:
        check_image_size(*image.size, name=name)
        for index, frame in enumerate(ImageSequence.Iterator(image)):
            pixels = np.asarray(to_rgb(frame, name=name))  # loads the frame and its duration
            duration_ms = float(frame.info.get("duration", 0))
            if index == 0 and getattr(image, "default_image", False):
                continue  # of an animated PNG: what programs show that cannot show the animation
            duration_s = (duration_ms if duration_ms >= MIN_DURATION_MS else DEFAULT_DURATION_MS) / 1000
            yield TimedFrame(start_s=start_s, duration_s=duration_s, get_pixels=partial(np.asarray, pixels))
            start_s += duration_s


def iterate_video(file: Path | BinaryIO, *, name: str, start_s: float = 0.0) -> Iterator[TimedFrame]:
    """Yield the frames of a video; those of which the next one begins before `start_s` may be left out."""
    import av

    with ExitStack() as stack:
        opened: Any = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        opened.seek(0)
        container = stack.enter_context(av.open(opened, options=CONTAINER_OPTIONS))
        stream: Any = container.streams.best("video")
        if stream is None:
            return
        origin = (stream.start_time or 0) * stream.time_base
        frames = _decode(container, stream)
        if start_s > SEEK_MARGIN_S:
            container.seek(int((start_s - SEEK_MARGIN_S + origin) / stream.time_base), stream=stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts * stream.time_base <= start_s + origin:
                frames = chain([first], frames)
            else:  # the file has no index of keyframes
                container.seek(stream.start_time or 0, stream=stream)
                frames = _decode(container, stream)
        yield from _add_times(frames, stream, origin=origin, name=name)


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Decode a stream by PyAV: VP8 and VP9 with an alpha channel by the library that reads it."""
    import av

    decoder_name = VPX_DECODERS.get(stream.codec_context.name)
    metadata = {key.lower(): value for key, value in stream.metadata.items()}
    if decoder_name is None or metadata.get("alpha_mode") != "1":
        yield from container.decode(stream)
        return
    decoder: Any = av.CodecContext.create(decoder_name, "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _add_times(frames: Iterable[Any], stream: Any, *, origin: Any, name: str) -> Iterator[TimedFrame]:
    """Turn PyAV's frames into timed ones: each lasts until the next one begins, and the last as long as it says."""
    default_s = 1 / float(stream.average_rate or stream.base_rate or DEFAULT_FPS)
    size, previous, start_s = None, None, 0.0
    for frame in frames:
        if size is None:
            check_image_size(frame.width, frame.height, name=name)
        elif size != (frame.width, frame.height):
            raise DianjingError("frames_of_several_sizes", path=name)
        size = (frame.width, frame.height)
        next_s = start_s if previous is None else start_s + default_s
        if frame.pts is not None and (time_s := float(frame.pts * stream.time_base - origin)) > start_s:
            next_s = time_s
        if previous is not None:
            yield _make_timed_frame(previous, stream, start_s=start_s, duration_s=next_s - start_s, name=name)
        previous, start_s = frame, next_s
    if previous is not None:
        duration_s = float((previous.duration or 0) * stream.time_base) or default_s
        yield _make_timed_frame(previous, stream, start_s=start_s, duration_s=duration_s, name=name)


def _make_timed_frame(frame: Any, stream: Any, *, start_s: float, duration_s: float, name: str) -> TimedFrame:
    aspect = float(stream.sample_aspect_ratio or 1)
    get_pixels = partial(_convert_frame, frame, pixel_aspect=aspect, name=name)
    return TimedFrame(start_s=start_s, duration_s=duration_s, get_pixels=get_pixels)


def _convert_frame(frame: Any, *, pixel_aspect: float, name: str) -> np.ndarray:
    """Convert a frame of PyAV to RGB as players show it: pixels square, turned by its matrix, alpha over white."""
    size = {"width": max(1, round(frame.width * pixel_aspect)), "height": frame.height}
    has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    with report_damage("video_unreadable", name=name):
        if has_alpha:
            rgba = frame.to_ndarray(format="rgba", **size)
            alpha = rgba[..., 3:].astype(np.uint16)
            pixels = ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        else:
            pixels = frame.to_ndarray(format="rgb24", **size)
    return np.ascontiguousarray(_apply_display_matrix(pixels, _read_display_matrix(frame)))


def _read_display_matrix(frame: Any) -> np.ndarray | None:
    """The first two rows and columns of a frame's display matrix, or None: (x, y) of a pixel are multiplied by it."""
    from av.sidedata.sidedata import Type

    side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    if side_data is None:
        return None
    return np.frombuffer(bytes(side_data), np.int32).reshape(3, 3)[:2, :2]


def _apply_display_matrix(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror pixels (H, W, 3) by the nearest multiple of a quarter turn.

    matrix: [[a, b], [c, d]], by which x' = a x + c y and y' = b x + d y, as in the header of a QuickTime track.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix.astype(float)
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
