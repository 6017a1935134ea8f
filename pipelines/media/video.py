"""Videos: writing MP4, animated WebP, GIF or numbered PNGs with metadata, and reading frames and metadata back.

F frames, H height, W width. Frames are written one by one, uint8 (H, W, 3): a long video need not be in memory.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import unescape

import numpy as np
from PIL import Image, ImageSequence

from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import XMP_KEY, make_aigc_label, make_xmp_packet, serialize_label
from dianjing.pipelines.media.atomic import atomic_file, check_output_path
from dianjing.pipelines.media.image import check_image_size, save_image
from dianjing.pipelines.media.image_file import EXIF_IMAGE_DESCRIPTION, read_image_texts
from dianjing.pipelines.media.metadata import GenerationMetadata, parse_metadata, serialize_metadata
from dianjing.pipelines.validation import check_fps

OUTPUT_EXTENSIONS = (".mp4", ".webp", ".gif", ".png")
VIDEO_EXTENSIONS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
ANIMATION_EXTENSIONS = (".webp", ".gif")
MAX_FRAMES = 2000
DEFAULT_FPS = 8.0  # of numbered PNGs, and of files that do not say


def get_video_metadata(frames: np.ndarray, fps: float) -> dict[str, object]:
    """Describe frames (F, H, W, 3) for generation metadata."""
    return {"num_frames": len(frames), "fps": fps, "height": frames.shape[1], "width": frames.shape[2]}


def check_video_output_path(path: str | Path) -> Path:
    """Check a path as `check_output_path` does; with .png every frame becomes a numbered file."""
    return check_output_path(path, extensions=OUTPUT_EXTENSIONS)


def save_video(
    frames: Iterable[np.ndarray], path: Path, metadata: GenerationMetadata, *, fps: float, producer: str | None
) -> list[Path]:
    """Write frames in the format of the path's extension, atomically, with metadata and an implicit AIGC label.

    Returns the files: one, or one for each frame. Without a producer there is no label. An odd width or height of an
    MP4 is padded by one pixel, since H.264 takes even sizes only.
    """
    fps, path = check_fps(fps), check_video_output_path(path)
    first, frames = _peek_first_frame(frames)
    label = None if producer is None else make_aigc_label(repr(metadata).encode() + first.tobytes(), producer=producer)
    if path.suffix.lower() == ".png":
        return _save_frames(frames, path, metadata, label)
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[path.suffix.lower()]
    with atomic_file(path) as temporary:
        write(frames, temporary, serialize_metadata(metadata), label, fps)
    return [path]


def _peek_first_frame(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise DianjingError("video_without_frames")
    return first, chain([first], iterator)


def _save_frames(
    frames: Iterable[np.ndarray], path: Path, metadata: GenerationMetadata, label: dict[str, str] | None
) -> list[Path]:
    paths = []
    for number, frame in enumerate(frames, start=1):
        paths.append(path.with_stem(f"{path.stem}-{number:04d}"))
        save_image(Image.fromarray(frame), paths[-1], metadata, label=label)
    return paths


def _write_mp4(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    """Write by PyAV itself: imageio's plugin cannot set the quality of the encoder."""
    import av

    # without use_metadata_tags MP4 drops keys it does not know, AIGC among them
    options = {"movflags": "use_metadata_tags+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata.update(texts if label is None else {**texts, "AIGC": serialize_label(label)})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "slow"}
        first, frames = _peek_first_frame(frames)
        padding = [(0, side % 2) for side in first.shape[:2]]
        stream.height, stream.width = (side + pad for side, (_, pad) in zip(first.shape, padding, strict=False))
        for frame in frames:
            padded = np.pad(frame, (*padding, (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")))
        container.mux(stream.encode())


def _write_webp(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    exif = Image.Exif()
    exif[EXIF_IMAGE_DESCRIPTION] = json.dumps(texts)  # ASCII, as EXIF requires
    xmp = {} if label is None else {"xmp": make_xmp_packet(label).encode()}
    _write_animation(frames, path, fps, format="WEBP", quality=92, method=4, exif=exif, **xmp)


def _write_gif(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    comment = json.dumps(texts if label is None else {**texts, "AIGC": serialize_label(label)})
    _write_animation(frames, path, fps, format="GIF", comment=comment.encode())


def _write_animation(frames: Iterator[np.ndarray], path: Path, fps: float, **save_kwargs: Any) -> None:
    """Write frames of equal duration, looping for ever, one by one by Pillow."""
    first, rest = Image.fromarray(next(frames)), (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **save_kwargs)


def read_video_metadata(path: str | Path) -> tuple[GenerationMetadata, dict[str, str] | None]:
    """Read the generation metadata of a video, and its AIGC label or None.

    Raises: DianjingError for a file that cannot be read or holds no metadata of Dianjing.
    """
    path = Path(path)
    read = _read_mp4_texts if path.suffix.lower() == ".mp4" else _read_animation_texts
    try:
        texts = read(path)
        label = texts.get("AIGC")
        return parse_metadata(texts), None if label is None else json.loads(label)
    except FileNotFoundError:
        raise DianjingError("file_missing", path=path) from None
    except OSError as error:
        raise DianjingError("video_unreadable", path=path, reason=str(error)) from None
    except (KeyError, ValueError, TypeError):
        raise DianjingError("metadata_missing", path=path) from None


def _read_mp4_texts(path: Path) -> dict[str, str]:
    import imageio.v3 as iio

    return iio.immeta(path, plugin="pyav")


def _read_animation_texts(path: Path) -> dict[str, str]:
    with Image.open(path, formats=("WEBP", "GIF")) as image:
        if image.format == "GIF":
            return json.loads(image.info["comment"])
        texts = read_image_texts(image)
    packet = texts.pop(XMP_KEY)
    _, start, rest = packet.partition("<TC260:AIGC>")
    return {**texts, "AIGC": unescape(rest.partition("</TC260:AIGC>")[0])} if start else texts


@dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """Frames of a video, uint8 (F, H, W, 3), and their rate."""

    frames: np.ndarray
    fps: float


def is_video_path(path: Path) -> bool:
    """True for a file with the extension of a video or an animation, and for a folder with PNGs."""
    return path.suffix.lower() in VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS if path.is_file() else any(path.glob("*.png"))


def read_video(path: Path, *, max_frames: int = MAX_FRAMES) -> DecodedVideo:
    """Read the first frames of a video, an animation or a folder of numbered PNGs.

    Raises: DianjingError for anything that cannot be read as one.
    """
    if path.is_dir():
        return _read_checked(partial(_read_folder_frames, path, max_frames), name=str(path))
    read = _read_animation_frames if path.suffix.lower() in ANIMATION_EXTENSIONS else _read_video_frames
    return _read_checked(partial(read, str(path), max_frames), name=str(path))


def decode_video(content: bytes, *, name: str, max_frames: int = MAX_FRAMES) -> DecodedVideo:
    """Read the first frames from the bytes of a file; the extension of its name selects the format.

    Raises: DianjingError for anything that cannot be read as a video.
    """
    if name.lower().endswith(ANIMATION_EXTENSIONS):
        return _read_checked(partial(_read_animation_frames, BytesIO(content), max_frames), name=name)
    return _read_checked(partial(_read_video_frames, content, max_frames), name=name)


def _read_checked(read: Callable[[], tuple[list[np.ndarray], float]], *, name: str) -> DecodedVideo:
    try:
        frames, fps = read()
    except DianjingError:
        raise
    except FileNotFoundError:
        raise DianjingError("file_missing", path=name) from None
    except (OSError, SyntaxError, ValueError) as error:  # PyAV's errors are OSErrors and ValueErrors
        raise DianjingError("video_unreadable", path=name, reason=str(error)) from None
    if not frames:
        raise DianjingError("video_file_without_frames", path=name)
    if len({frame.shape for frame in frames}) > 1:
        raise DianjingError("frames_of_several_sizes", path=name)
    return DecodedVideo(frames=np.stack(frames), fps=fps)


def _read_video_frames(source: str | bytes, max_frames: int) -> tuple[list[np.ndarray], float]:
    import imageio.v3 as iio

    with iio.imopen(source, "r", plugin="pyav") as file:
        _, height, width, _ = file.properties().shape
        check_image_size(width, height)
        frames = list(islice(file.iter(), max_frames))
        return frames, file.metadata()["fps"] or DEFAULT_FPS


def _read_animation_frames(source: str | BinaryIO, max_frames: int) -> tuple[list[np.ndarray], float]:
    durations_ms = []

    def iterate_frames(image: Image.Image) -> Iterator[np.ndarray]:
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(frame.convert("RGB"))  # loads the frame and its duration
            durations_ms.append(frame.info.get("duration", 0))
            yield pixels

    # Pillow itself: imageio cannot limit it to these formats, and some others run programs
    with closing(Image.open(source, formats=("WEBP", "GIF"))) as image:
        check_image_size(*image.size)
        frames = list(islice(iterate_frames(image), max_frames))
    total_ms = sum(durations_ms)
    return frames, 1000 * len(frames) / total_ms if total_ms else DEFAULT_FPS


def _read_folder_frames(path: Path, max_frames: int) -> tuple[list[np.ndarray], float]:
    frames = []
    for file in sorted(path.glob("*.png"))[:max_frames]:
        with Image.open(file, formats=("PNG",)) as image:
            check_image_size(*image.size)
            frames.append(np.asarray(image.convert("RGB")))
    return frames, DEFAULT_FPS
