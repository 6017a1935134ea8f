"""Clips of data set videos: inspection, masks of motion labels, and frames at the frame rate of a run.

H height, W width in pixels.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.crop import resize_crop
from dianjing.pipelines.media.image import open_image, open_image_file
from dianjing.pipelines.media.mask import check_mask_size, select_white
from dianjing.pipelines.media.video_reading import VideoInfo, inspect_video, iterate_frames, resample_frames
from dianjing.train.data.samples import SampleRecord, open_source, read_source

MIN_FPS_RATIO = 0.95  # of a video's frame rate to the requested one


def inspect_clip_source(record: SampleRecord, *, fps: float) -> VideoInfo:
    """Decode the whole video of a record, and its motion mask and first frame, if any.

    Raises: DianjingError if one of them cannot be read, for a lower frame rate than `fps`, and for a mask of another
    size or without anything selected.
    """
    with open_source(record.source, name=record.name) as file:
        info = inspect_video(file, name=record.name)
    if info.fps < MIN_FPS_RATIO * fps:
        raise DianjingError("video_frame_rate_low", name=record.name, fps=f"{info.fps:.3g}", required=f"{fps:g}")
    if record.motion_label is not None:
        read_motion_mask(record, size=(info.width, info.height))
    if record.first_frame is not None:
        _read_first_frame(record)
    return info


def read_motion_mask(record: SampleRecord, *, size: tuple[int, int]) -> np.ndarray:
    """The mask of a motion label, bool (H, W), for a video of `size` (width, height).

    Raises: DianjingError for a mask that cannot be read, is of another size or empty.
    """
    assert record.motion_label is not None
    name = f"mask of {record.name}"
    mask = open_image_file(BytesIO(read_source(record.motion_label.mask, name=name)), select_white, name=name)
    check_mask_size(mask, size=size, name=Message("mask_of_sample", name=record.name))
    if not mask.any():
        raise DianjingError("mask_empty", name=Message("mask_of_sample", name=record.name))
    return mask


def _read_first_frame(record: SampleRecord) -> Image.Image:
    assert record.first_frame is not None
    name = f"first frame of {record.name}"
    return open_image(BytesIO(read_source(record.first_frame, name=name)), name=name)


def iterate_clip(record: SampleRecord, *, fps: float, num_frames: int) -> Iterator[Image.Image]:
    """Yield `num_frames` frames of a video from the record's start on, resampled to `fps`, one in memory at a time.

    A first frame that the record names replaces that of the video.
    Raises: DianjingError if the video cannot be read, or has become shorter.
    """
    count, stop = 0, record.start_frame + num_frames
    with open_source(record.source, name=record.name) as file:
        frames = iterate_frames(file, name=record.name, start_s=record.start_frame / fps)
        for frame in resample_frames(frames, fps=fps, start=record.start_frame, stop=stop):
            image = Image.fromarray(frame.get_pixels())
            if record.first_frame is not None and count == record.start_frame == 0:
                image, _ = resize_crop(_read_first_frame(record), width=image.width, height=image.height)
            yield image
            count += 1
    if count < num_frames:
        raise DianjingError("video_shortened", name=record.name, count=record.start_frame + count)


def choose_clip_starts(num_source_frames: int, clip_length: int) -> list[int]:
    """First frames of the fewest clips of one length that cover a video, evenly spaced; they overlap if they must."""
    count = -(-num_source_frames // clip_length)
    last = num_source_frames - clip_length
    return [round(index * last / (count - 1)) for index in range(count)] if count > 1 else [0]
