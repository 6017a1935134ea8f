"""Frames become a film: MP4, animated WebP or GIF by the file's ending, or numbered PNGs, each with its settings.

F frames, H height, W width. Frames come one by one as uint8 (H, W, 3): a long film need not be in memory.
"""

import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

import numpy as np
from PIL import Image

from dianjing.pipelines.lengths import check_fps
from dianjing.pipelines.media import (
    Record,
    check_output,
    from_texts,
    label_text,
    make_label,
    save_picture,
    to_texts,
    whole_file,
    xmp_packet,
)

ENDINGS = (".mp4", ".webp", ".gif", ".png")


def film_settings(frames: np.ndarray, fps: float) -> dict[str, object]:
    """What frames (F, H, W, 3) say of themselves, for a record."""
    return {"num_frames": len(frames), "fps": fps, "height": frames.shape[1], "width": frames.shape[2]}


def check_film_output(path: str | Path) -> Path:
    """`check_output` for a film; with .png every frame becomes a numbered file."""
    return check_output(path, endings=ENDINGS)


def save_film(
    frames: Iterable[np.ndarray], path: Path, record: Record, *, fps: float, producer: str | None
) -> list[Path]:
    """Write frames as the ending of `path` says, and return what was written: one file, or one for each frame.

    The label is left out where `producer` is None. An odd width or height of an MP4 is filled up by one pixel, as
    H.264 takes even sizes only.
    """
    fps, path = check_fps(fps), check_film_output(path)
    first, frames = _peek(frames)
    label = None if producer is None else make_label(repr(record).encode() + first.tobytes(), producer=producer)
    if path.suffix.lower() == ".png":
        return _save_frames(frames, path, record, label)
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[path.suffix.lower()]
    with whole_file(path) as temporary:
        write(frames, temporary, to_texts(record), label, fps)
    return [path]


def _peek(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("a film without frames cannot be written")
    return first, chain([first], rest)


def _save_frames(frames: Iterable[np.ndarray], path: Path, record: Record, label: dict[str, str] | None) -> list[Path]:
    written = []
    for number, frame in enumerate(frames, start=1):
        written.append(path.with_stem(f"{path.stem}-{number:04d}"))
        save_picture(Image.fromarray(frame), written[-1], record, label=label)
    return written


def _write_mp4(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    import av

    # without use_metadata_tags MP4 drops keys it does not know, AIGC among them
    options = {"movflags": "use_metadata_tags+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata.update(texts if label is None else {**texts, "AIGC": label_text(label)})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16", "preset": "slow"}
        first, frames = _peek(frames)
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
    extra = {} if label is None else {"xmp": xmp_packet(label).encode()}
    _animate(frames, path, fps, format="WEBP", quality=92, method=4, exif=exif, **extra)


def _write_gif(
    frames: Iterator[np.ndarray], path: Path, texts: dict[str, str], label: dict[str, str] | None, fps: float
) -> None:
    comment = json.dumps(texts if label is None else {**texts, "AIGC": label_text(label)})
    _animate(frames, path, fps, format="GIF", comment=comment.encode())


def _animate(frames: Iterator[np.ndarray], path: Path, fps: float, **options: Any) -> None:
    """Every frame for its time, for ever."""
    first, rest = Image.fromarray(next(frames)), (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **options)


def read_film_settings(path: str | Path) -> tuple[Record, dict[str, str] | None]:
    """What made a film, and its label if it has one.

    Raises: ValueError for a file that Dianjing did not make.
    """
    path = Path(path)
    try:
        texts = _read_mp4(path) if path.suffix.lower() == ".mp4" else _read_animation(path)
        label = texts.get("AIGC")
        return from_texts(texts), None if label is None else json.loads(label)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a film made by Dianjing: {error}") from None


def _read_mp4(path: Path) -> dict[str, str]:
    import av

    with av.open(str(path)) as container:
        return dict(container.metadata)


def _read_animation(path: Path) -> dict[str, str]:
    with Image.open(path, formats=("WEBP", "GIF")) as image:
        if image.format == "GIF":
            return json.loads(image.info["comment"])
        texts = json.loads(image.getexif()[0x010E])
        packet = image.info.get("xmp", b"").decode()
    _, found, rest = packet.partition("<TC260:AIGC>")
    return {**texts, "AIGC": unescape(rest.partition("</TC260:AIGC>")[0])} if found else texts
