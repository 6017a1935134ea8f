"""Inspection of data sets before training: every file is opened once, and unusable ones are reported by name.

F frames, H height, W width.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from tqdm.auto import tqdm

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.media.video_reading import VIDEO_EXTENSIONS, is_video
from dianjing.train.data.fitting import read_loss_mask
from dianjing.train.data.samples import ByteSource, Reason, SampleRecord, open_source, read_source
from dianjing.train.data.video_clips import inspect_clip_source

NUM_THREADS = 8  # decoding releases Python's global lock
BLOCK_BYTES = 1 << 20
MAX_CONTROL_STRETCH = 0.02  # difference of the aspect ratios of an image and its control image


@dataclass(frozen=True, kw_only=True)
class InspectionResult:
    """Usable records with their (width, height) and number of frames, and reasons for the rejected ones by name."""

    records: list[SampleRecord]
    sizes: list[tuple[int, int]]
    num_frames: list[int]  # 1 for images
    rejected: dict[str, Reason]


class _Inspection(NamedTuple):
    """Size and content of a readable file."""

    size: tuple[int, int]
    num_frames: int
    digest: str
    control_digest: str | None = None


def decode_image(source: ByteSource, *, name: str) -> Image.Image:
    """The image as RGB, upright. Raises: DianjingError if it cannot be read as an image."""
    return open_image(BytesIO(read_source(source, name=name)), name=name)


def inspect_records(records: Sequence[SampleRecord], *, min_side_px: int, fps: float | None = None) -> InspectionResult:
    """Open all records, and reject those that are unreadable or have a side shorter than `min_side_px`.

    Videos are read at `fps`; if it is None, videos are rejected and animated images count as images (first frame).
    """
    result = InspectionResult(records=[], sizes=[], num_frames=[], rejected={})
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        inspections = pool.map(partial(_inspect_record, fps=fps), records)
        bar = tqdm(inspections, total=len(records), desc="inspecting images", disable=None)
        for record, inspection in zip(records, bar, strict=True):
            if not isinstance(inspection, _Inspection):
                result.rejected[record.name] = inspection
                continue
            width, height = inspection.size
            if min(width, height) < min_side_px:
                result.rejected[record.name] = Message(
                    "image_side_short", width=width, height=height, minimum=min_side_px
                )
            else:
                result.records.append(
                    replace(record, digest=inspection.digest, control_digest=inspection.control_digest)
                )
                result.sizes.append((width, height))
                result.num_frames.append(inspection.num_frames)
    return result


def _inspect_record(record: SampleRecord, *, fps: float | None) -> _Inspection | Reason:
    """Open a record; returns the reason if it is unusable."""
    try:
        with open_source(record.source, name=record.name) as file:
            digest = _hash_file(file)
            is_moving = is_video(file, name=record.name)
        if fps is None and is_moving and record.name.lower().endswith(VIDEO_EXTENSIONS):
            return Message("video_without_clip_lengths")
        if fps is None or not is_moving:
            size, num_frames = decode_image(record.source, name=record.name).size, 1
        else:
            info = inspect_clip_source(record, fps=fps)
            size, num_frames = (info.width, info.height), info.count_resampled_frames(fps)
            if num_frames < 2:
                return Message("video_of_one_frame", fps=f"{fps:g}")
            for sidecar in (record.first_frame, None if record.motion_label is None else record.motion_label.mask):
                if sidecar is not None:
                    digest.update(read_source(sidecar, name=f"a file next to {record.name}"))
        read_loss_mask(record, size)
        _add_mask(digest, record)
        control_digest = _inspect_control_image(record, size)
    except DianjingError as error:
        return error
    except OSError as error:
        return Message("sample_file_unreadable", name=record.name, reason=str(error))
    return _Inspection(size=size, num_frames=num_frames, digest=digest.hexdigest(), control_digest=control_digest)


def _inspect_control_image(record: SampleRecord, size: tuple[int, int]) -> str | None:
    """Hash a control image, if there is one. Raises: DianjingError for one that is unreadable or of another shape."""
    if record.control_image is None:
        return None
    name = f"control image of {record.name}"
    content = read_source(record.control_image, name=name)
    width, height = decode_image(record.control_image, name=name).size
    if abs(width * size[1] / (height * size[0]) - 1) > MAX_CONTROL_STRETCH:
        raise DianjingError(
            "control_image_shape",
            name=record.name,
            width=width,
            height=height,
            image_width=size[0],
            image_height=size[1],
        )
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def _hash_file(file: BinaryIO) -> Any:
    digest = hashlib.blake2b(digest_size=20)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest


def _add_mask(digest: Any, record: SampleRecord) -> None:
    """Add the content of a loss mask to the hash of a record, which identifies its latents in the cache."""
    if record.loss_mask == "alpha":
        digest.update(b"alpha")
    elif record.loss_mask is not None:
        digest.update(read_source(record.loss_mask, name=f"mask of {record.name}"))
