"""Every picture of a data set is opened once before it is trained on: what cannot be read is named, not met later."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dianjing.pipelines.media.image import open_image, resize_crop
from dianjing.pipelines.media.video import ANIMATION_EXTENSIONS, VIDEO_EXTENSIONS, decode_video
from dianjing.train.data.samples import ByteSource, SampleRecord

NUM_THREADS = 8  # decoding leaves Python's lock
MIN_FPS_RATIO = 0.95  # of the frames a second that are asked for


@dataclass(frozen=True, kw_only=True)
class InspectionResult:
    """Entries with their (width, height) and number of frames, and by name what was left out and why."""

    records: list[SampleRecord]
    sizes: list[tuple[int, int]]
    num_frames: list[int]  # 1 of pictures
    rejected: dict[str, str]


def read_source(source: ByteSource, *, name: str) -> bytes:
    """Raises ValueError for what cannot be read."""
    try:
        return source.read()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def decode_image(source: ByteSource, *, name: str) -> Image.Image:
    """The picture as RGB, upright.

    Raises: ValueError for what cannot be read as one.
    """
    return open_image(BytesIO(read_source(source, name=name)), name=name)


def read_clip_frames(record: SampleRecord, *, fps: float) -> np.ndarray:
    """The frames of a film at so many a second: uint8 (F, H, W, 3); where it has another first frame, with that.

    Raises: ValueError for what cannot be read, or is slower.
    """
    film = decode_video(read_source(record.source, name=record.name), name=record.name)
    if film.fps < MIN_FPS_RATIO * fps:
        raise ValueError(f"{record.name} has {film.fps:.3g} frames a second; data.fps asks for {fps:g}")
    count = max(1, round(len(film.frames) * fps / film.fps))
    indices = np.minimum(np.round(np.arange(count) * film.fps / fps).astype(int), len(film.frames) - 1)
    frames = film.frames[indices]
    if record.first_frame is not None:
        height, width = frames.shape[1:3]
        frames[0] = resize_crop(
            decode_image(record.first_frame, name=f"first frame of {record.name}"), height=height, width=width
        )[0]
    return frames


def is_video_record(record: SampleRecord, content: bytes) -> bool:
    """Also an animated picture."""
    if record.name.lower().endswith(VIDEO_EXTENSIONS):
        return True
    if not record.name.lower().endswith(ANIMATION_EXTENSIONS):
        return False
    with Image.open(BytesIO(content), formats=("WEBP", "GIF")) as image:
        return getattr(image, "n_frames", 1) > 1


def inspect_records(records: Sequence[SampleRecord], *, min_side_px: int, fps: float | None = None) -> InspectionResult:
    """Open them all; pictures with a side below `min_px` are left out.

    fps: that films are read at; None where pictures alone are wanted, of an animated one the first frame.
    """

    def examine(entry: SampleRecord) -> tuple[tuple[int, int], int, str] | str:
        try:
            content = read_source(entry.source, name=entry.name)
            digest = hashlib.blake2b(content, digest_size=20)
            if fps is None or not is_video_record(entry, content):
                if entry.name.lower().endswith(VIDEO_EXTENSIONS):
                    return "a film; data.num_frames names no length for films"
                return open_image(BytesIO(content), name=entry.name).size, 1, digest.hexdigest()
            count, height, width, _ = read_clip_frames(entry, fps=fps).shape
            if count < 2:
                return f"a film of one frame at {fps:g} a second"
            for beside in (entry.first_frame, None if entry.motion_label is None else entry.motion_label.mask):
                if beside is not None:
                    digest.update(read_source(beside, name=f"what is beside {entry.name}"))
        except (ValueError, OSError) as error:
            return str(error)
        return (width, height), count, digest.hexdigest()

    found = InspectionResult(records=[], sizes=[], num_frames=[], rejected={})
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        bar = tqdm(pool.map(examine, records), total=len(records), desc="looking at pictures", disable=None)
        for entry, answer in zip(records, bar, strict=True):
            if isinstance(answer, str):
                found.rejected[entry.name] = answer
                continue
            (width, height), count, digest = answer
            if min(width, height) < min_side_px:
                found.rejected[entry.name] = f"{width} x {height} px is below {min_side_px} px"
            else:
                found.records.append(replace(entry, digest=digest))
                found.sizes.append((width, height))
                found.num_frames.append(count)
    return found
