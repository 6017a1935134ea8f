"""Videos: writing MP4, animated WebP, GIF or numbered PNGs with metadata, and reading the metadata back.

F frames, H height, W width. Frames are written one by one, uint8 (H, W, 3): a long video need not be in memory.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from xml.sax.saxutils import unescape

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import XMP_KEY, make_aigc_label, make_xmp_packet, serialize_label
from dianjing.pipelines.media.atomic import atomic_file, check_output_path
from dianjing.pipelines.media.color import flatten_alpha
from dianjing.pipelines.media.gif import TRANSPARENT_INDEX, make_palette_frames
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.image_file import EXIF_IMAGE_DESCRIPTION, read_image_texts
from dianjing.pipelines.media.metadata import (
    GenerationMetadata,
    parse_metadata,
    parse_metadata_json,
    serialize_metadata,
)
from dianjing.pipelines.validation import check_fps

OUTPUT_EXTENSIONS = (".mp4", ".webp", ".apng", ".gif", ".png")
# browsers slow frames of 10 ms and less down to 100 ms; GIF counts in hundredths of a second
MAX_ANIMATION_FPS = {".webp": 60.0, ".apng": 60.0, ".gif": 50.0}
ALPHA_EXTENSIONS = (".webp", ".apng", ".gif", ".png")  # of files that keep transparent parts; MP4 shows white there
MAX_FPS_DENOMINATOR = 1001  # of 30000 / 1001, the frame rate of NTSC


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
    MP4 is padded by one pixel, since H.264 takes even sizes only. Videos above the rate of MAX_ANIMATION_FPS lose
    frames in these formats, and last as long.
    """
    fps, path = check_fps(fps), check_video_output_path(path)
    first, frames = _peek_first_frame(frames)
    label = None if producer is None else make_aigc_label(repr(metadata).encode() + first.tobytes(), producer=producer)
    if path.suffix.lower() == ".png":
        settings = {**metadata.settings, "fps": fps}
        return _save_frames(frames, path, replace(metadata, settings=settings), label)
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".apng": _write_apng, ".gif": _write_gif}[path.suffix.lower()]
    if path.suffix.lower() not in ALPHA_EXTENSIONS:
        frames = map(flatten_alpha, frames)
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
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(MAX_FPS_DENOMINATOR))
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
    frames, fps = _limit_fps(frames, fps, max_fps=MAX_ANIMATION_FPS[".webp"])
    first, frames = _peek_first_frame(frames)
    # whole frames: of a changed part that is opaque, libwebp notes that the file has no alpha channel
    alpha_options = {"kmin": 0, "kmax": 1} if first.shape[2] == 4 else {}
    images = map(Image.fromarray, frames)
    next(images).save(  # Pillow rounds the time of each frame, not its duration
        path,
        format="WEBP",
        save_all=True,
        append_images=images,
        duration=1000 / fps,
        loop=0,
        quality=92,
        method=4,
        exif=exif,
        **alpha_options,
        **xmp,
    )


def _write_apng(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    if label is not None:
        info.add_itxt(XMP_KEY, make_xmp_packet(label))
    frames, fps = _limit_fps(frames, fps, max_fps=MAX_ANIMATION_FPS[".apng"])
    first, *others = map(Image.fromarray, frames)  # Pillow goes through them twice
    first.save(path, format="PNG", save_all=True, append_images=others, duration=1000 / fps, loop=0, pnginfo=info)


def _write_gif(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    comment = json.dumps(texts if label is None else {**texts, "AIGC": serialize_label(label)})
    frames, fps = _limit_fps(frames, fps, max_fps=MAX_ANIMATION_FPS[".gif"])
    first, frames = _peek_first_frame(frames)
    has_alpha = first.shape[2] == 4
    alpha_options = {"disposal": 2, "transparency": TRANSPARENT_INDEX, "optimize": False} if has_alpha else {}
    images = _set_gif_durations(make_palette_frames(list(frames)) if has_alpha else map(Image.fromarray, frames), fps)
    next(images).save(
        path, format="GIF", save_all=True, append_images=images, loop=0, comment=comment.encode(), **alpha_options
    )


def _limit_fps(frames: Iterable[np.ndarray], fps: float, *, max_fps: float) -> tuple[Iterator[np.ndarray], float]:
    """Leave out frames so that at most max_fps of them are shown per second, and return the resulting rate."""
    if fps <= max_fps:
        return iter(frames), fps

    def select() -> Iterator[np.ndarray]:
        num_selected = 0
        for index, frame in enumerate(frames):
            if index >= num_selected * fps / max_fps:
                yield frame
                num_selected += 1

    return select(), max_fps


def _set_gif_durations(images: Iterable[Image.Image], fps: float) -> Iterator[Image.Image]:
    """Set the durations of images to whole hundredths of a second whose sums are nearest to the true times."""
    for index, image in enumerate(images):
        start_cs, end_cs = (round(100 * number / fps) for number in (index, index + 1))
        image.info["duration"] = 10 * (end_cs - start_cs)
        yield image


def read_video_metadata(path: str | Path) -> tuple[GenerationMetadata, dict[str, str] | None]:
    """Read the generation metadata of a video, and its AIGC label or None.

    Raises: DianjingError for a file that cannot be read or holds no metadata of Dianjing.
    """
    path = Path(path)
    read = _read_mp4_texts if path.suffix.lower() == ".mp4" else _read_animation_texts
    try:
        texts = read(path)
        label = texts.get("AIGC")
        return parse_metadata(texts), None if label is None else parse_metadata_json(label)
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
    with Image.open(path, formats=("WEBP", "PNG", "GIF")) as image:
        if image.format == "GIF":
            return parse_metadata_json(image.info["comment"])
        texts = read_image_texts(image)
    packet = texts.pop(XMP_KEY, "")
    _, start, rest = packet.partition("<TC260:AIGC>")
    return {**texts, "AIGC": unescape(rest.partition("</TC260:AIGC>")[0])} if start else texts
