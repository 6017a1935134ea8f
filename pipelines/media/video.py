"""Frames become a film: MP4, animated WebP or GIF by the file's ending, or numbered PNGs, each with its settings.

F frames, H height, W width. Frames come one by one as uint8 (H, W, 3): a long film need not be in memory.
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

from dianjing.pipelines.media.aigc_label import make_aigc_label, make_xmp_packet, serialize_label
from dianjing.pipelines.media.atomic import atomic_file, check_output_path
from dianjing.pipelines.media.image import check_image_size, save_image
from dianjing.pipelines.media.metadata import GenerationMetadata, parse_metadata, serialize_metadata
from dianjing.pipelines.validation import check_fps

OUTPUT_EXTENSIONS = (".mp4", ".webp", ".gif", ".png")


def get_video_metadata(frames: np.ndarray, fps: float) -> dict[str, object]:
    """What frames (F, H, W, 3) say of themselves, for a record."""
    return {"num_frames": len(frames), "fps": fps, "height": frames.shape[1], "width": frames.shape[2]}


def check_video_output_path(path: str | Path) -> Path:
    """`check_output` for a film; with .png every frame becomes a numbered file."""
    return check_output_path(path, extensions=OUTPUT_EXTENSIONS)


def save_video(
    frames: Iterable[np.ndarray], path: Path, metadata: GenerationMetadata, *, fps: float, producer: str | None
) -> list[Path]:
    """Write frames as the ending of `path` says, and return what was written: one file, or one for each frame.

    The label is left out where `producer` is None. An odd width or height of an MP4 is filled up by one pixel, as
    H.264 takes even sizes only.
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
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("a film without frames cannot be written")
    return first, chain([first], rest)


def _save_frames(
    frames: Iterable[np.ndarray], path: Path, metadata: GenerationMetadata, label: dict[str, str] | None
) -> list[Path]:
    written = []
    for number, frame in enumerate(frames, start=1):
        written.append(path.with_stem(f"{path.stem}-{number:04d}"))
        save_image(Image.fromarray(frame), written[-1], metadata, label=label)
    return written


def _write_mp4(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    import av

    # without use_metadata_tags MP4 drops keys it does not know, AIGC among them
    options = {"movflags": "use_metadata_tags+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata.update(texts if label is None else {**texts, "AIGC": serialize_label(label)})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "slow"}
        first, frames = _peek_first_frame(frames)
        odd = [(0, side % 2) for side in first.shape[:2]]
        stream.height, stream.width = (side + extra for side, (_, extra) in zip(first.shape, odd, strict=False))
        for frame in frames:
            even = np.pad(frame, (*odd, (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        container.mux(stream.encode())


def _write_webp(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    exif = Image.Exif()
    exif[0x010E] = json.dumps(texts)  # ImageDescription; ASCII, as EXIF wants it
    extra = {} if label is None else {"xmp": make_xmp_packet(label).encode()}
    _write_animation(frames, path, fps, format="WEBP", quality=92, method=4, exif=exif, **extra)


def _write_gif(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    comment = json.dumps(texts if label is None else {**texts, "AIGC": serialize_label(label)})
    _write_animation(frames, path, fps, format="GIF", comment=comment.encode())


def _write_animation(frames: Iterator[np.ndarray], path: Path, fps: float, **save_kwargs: Any) -> None:
    """Every frame for its time, for ever."""
    first, rest = Image.fromarray(next(frames)), (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **save_kwargs)


def read_video_metadata(path: str | Path) -> tuple[GenerationMetadata, dict[str, str] | None]:
    """What made a film, and its label if it has one.

    Raises: ValueError for a file that Dianjing did not make.
    """
    path = Path(path)
    try:
        texts = _read_mp4_metadata(path) if path.suffix.lower() == ".mp4" else _read_animation_metadata(path)
        label = texts.get("AIGC")
        return parse_metadata(texts), None if label is None else json.loads(label)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a film made by Dianjing: {error}") from None


def _read_mp4_metadata(path: Path) -> dict[str, str]:
    import av

    with av.open(str(path)) as container:
        return dict(container.metadata)


def _read_animation_metadata(path: Path) -> dict[str, str]:
    with Image.open(path, formats=("WEBP", "GIF")) as image:
        if image.format == "GIF":
            return json.loads(image.info["comment"])
        texts = json.loads(image.getexif()[0x010E])
        packet = image.info.get("xmp", b"").decode()
    _, found, rest = packet.partition("<TC260:AIGC>")
    return {**texts, "AIGC": unescape(rest.partition("</TC260:AIGC>")[0])} if found else texts


VIDEO_EXTENSIONS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
ANIMATION_EXTENSIONS = (".webp", ".gif")
MAX_FRAMES = 2000
DEFAULT_FPS = 8.0  # of frames in a folder, which do not say


@dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """frames: uint8 (F, H, W, 3)."""

    frames: np.ndarray
    fps: float


def is_video_path(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS + ANIMATION_EXTENSIONS if path.is_file() else any(path.glob("*.png"))


def read_video(path: Path, *, max_frames: int = MAX_FRAMES) -> DecodedVideo:
    """The first frames of a film, at most `most_frames`.

    Raises: ValueError for what cannot be read as one.
    """
    if path.is_dir():
        return _read_checked(partial(_read_folder_frames, path, max_frames), name=str(path))
    kind = _read_animation_frames if path.suffix.lower() in ANIMATION_EXTENSIONS else _read_video_frames
    return _read_checked(partial(kind, str(path), max_frames), name=str(path))


def decode_video(content: bytes, *, name: str, max_frames: int = MAX_FRAMES) -> DecodedVideo:
    """As `read_film`, of a file's bytes; the ending of its name says what it is.

    Raises: ValueError for what cannot be read as a film.
    """
    kind = _read_animation_frames if name.lower().endswith(ANIMATION_EXTENSIONS) else _read_video_frames
    return _read_checked(partial(kind, BytesIO(content), max_frames), name=name)


def _read_checked(read: Callable[[], tuple[list[np.ndarray], float]], *, name: str) -> DecodedVideo:
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
    return DecodedVideo(frames=np.stack(frames), fps=fps)


def _read_video_frames(source: str | BinaryIO, max_frames: int) -> tuple[list[np.ndarray], float]:
    import av

    with av.open(source) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise ValueError("it has no pictures")
        check_image_size(stream.codec_context.width, stream.codec_context.height)
        shown = (frame.to_ndarray(format="rgb24") for frame in container.decode(stream))
        frames = list(islice(shown, max_frames))
        return frames, float(stream.average_rate or DEFAULT_FPS)


def _read_animation_frames(source: str | BinaryIO, max_frames: int) -> tuple[list[np.ndarray], float]:
    durations = []

    def shown(image: Image.Image) -> Iterator[np.ndarray]:
        for frame in ImageSequence.Iterator(image):
            pixels = np.asarray(frame.convert("RGB"))  # loads the frame, and with it how long it is shown
            durations.append(frame.info.get("duration", 0))
            yield pixels

    with closing(Image.open(source, formats=("WEBP", "GIF"))) as image:
        check_image_size(*image.size)
        frames = list(islice(shown(image), max_frames))
    total = sum(durations)
    return frames, 1000 * len(frames) / total if total else DEFAULT_FPS


def _read_folder_frames(path: Path, max_frames: int) -> tuple[list[np.ndarray], float]:
    frames = []
    for file in sorted(path.glob("*.png"))[:max_frames]:
        with Image.open(file, formats=("PNG",)) as image:
            check_image_size(*image.size)
            frames.append(np.asarray(image.convert("RGB")))
    return frames, DEFAULT_FPS
