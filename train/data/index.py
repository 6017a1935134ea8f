"""The index of all data sets of a run: samples by bucket shape, with a report of what was rejected or cropped."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from dianjing.errors import DianjingError, Lines, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import BucketFit, BucketShape, find_nearest_bucket
from dianjing.train.data.fitting import fit_motion_mask
from dianjing.train.data.inspect import inspect_records
from dianjing.train.data.samples import Reason, SampleRecord
from dianjing.train.data.sources import list_dataset
from dianjing.train.data.video_clips import choose_clip_starts

MIN_REPORTED_CROP = 0.02  # fraction of an image's area
MAX_LISTED = 20  # rejected samples in an error message
MAX_LISTED_UNUSED = 3  # files in the summary


@dataclass(kw_only=True)
class DatasetIndex:
    """Samples and their repeats by bucket shape, and reasons for rejected and cropped samples by name."""

    records: dict[BucketShape, list[SampleRecord]] = field(default_factory=dict)
    repeats: dict[BucketShape, list[float]] = field(default_factory=dict)
    rejected: dict[str, Reason] = field(default_factory=dict)
    cropped: dict[str, str] = field(default_factory=dict)
    unused: dict[str, Reason] = field(default_factory=dict)  # files that belong to no sample, such as lone captions

    def add(self, record: SampleRecord, shape: BucketShape, dataset: DatasetConfig) -> None:
        """Add a sample with the repeats of its data set; with `flip`, half of them go to its mirror image.

        Samples whose motion is described are not mirrored, since "left" would become wrong.
        """
        records, repeats = self.records.setdefault(shape, []), self.repeats.setdefault(shape, [])
        if dataset.flip and record.motion_label is None:
            records += [record, replace(record, name=f"{record.name} (mirrored)", is_flipped=True)]
            repeats += [dataset.repeats / 2] * 2
        else:
            records.append(record)
            repeats.append(dataset.repeats)

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))

    def list_records(self) -> list[SampleRecord]:
        """All samples, in the order of their shapes."""
        return [record for records in self.records.values() for record in records]

    @property
    def has_motion_control(self) -> bool:
        """True if some video has a region with a motion."""
        return any(record.motion_label is not None for record in self.list_records())

    def hash_samples(self) -> dict[str, str]:
        """The name of each sample -> a hash of its content and captions; of equal names, later ones have a number."""
        hashes: dict[str, str] = {}
        for record in self.list_records():
            control = [] if record.control_digest is None else [record.control_digest]
            content = json.dumps([record.digest, record.text_zh, record.text_en, *control])
            names = (f"{record.name}{suffix}" for suffix in chain([""], (f" ({n})" for n in count(2))))
            name = next(name for name in names if name not in hashes)
            hashes[name] = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        return hashes

    def summarize(self) -> Message:
        """Numbers of samples by shape, of rejected and cropped ones, and the files that are not used."""
        shapes = [
            Message("samples_of_shape", count=len(same), shape=describe_shape(s)) for s, same in self.records.items()
        ]
        counts = {"count": self.count, "rejected": len(self.rejected), "cropped": len(self.cropped)}
        if not self.unused:
            return Message("data_summary", shapes=shapes, **counts)
        listed: list[Message | str] = [
            Message("sample_problem", name=name, reason=reason)
            for name, reason in list(self.unused.items())[:MAX_LISTED_UNUSED]
        ]
        if len(self.unused) > len(listed):
            listed.append("...")
        return Message("data_summary_unused", shapes=shapes, **counts, unused=len(self.unused), files=listed)

    def save(self, path: Path) -> None:
        """Write the names and reasons of rejected and cropped samples, and of unused files, as JSON."""
        rejected = {name: str(reason) for name, reason in self.rejected.items()}
        unused = {name: str(reason) for name, reason in self.unused.items()}
        report = {"summary": str(self.summarize()), "rejected": rejected, "cropped": self.cropped, "unused": unused}
        path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


def format_shape(shape: BucketShape) -> str:
    """A shape as text, such as "512 x 384 px, 8 frames"."""
    height, width, *frames = shape
    return f"{width} x {height} px" + (f", {frames[0]} frames" if frames else "")


def describe_shape(shape: BucketShape) -> Message:
    """A shape as `format_shape`, in both languages."""
    height, width, *frames = shape
    size = Message("shape_px", width=width, height=height)
    return Message("shape_of_clip", size=size, num_frames=frames[0]) if frames else size


def get_crop_reason(
    fit: BucketFit, size: tuple[int, int], *, num_used_frames: int, num_source_frames: int, is_padded: bool = False
) -> str:
    """The parts of an image of (width, height) or a video that its bucket crops, as text; empty if (almost) none."""
    reasons = []
    if fit.cropped_fraction > MIN_REPORTED_CROP and not is_padded:
        height, width = fit.shape
        reasons.append(f"{fit.cropped_fraction:.0%} of {size[0]} x {size[1]} px cropped to fit {width} x {height} px")
    if num_used_frames < num_source_frames:
        reasons.append(
            f"the first {num_used_frames} of {num_source_frames} frames, which the motion label belongs to; captions "
            "would let the others be used"
        )
    return "; ".join(reasons)


def build_index(
    datasets: Sequence[DatasetConfig],
    make_shapes: Callable[[int | None], Sequence[BucketShape]],
    *,
    min_side_px: int,
    max_rejected_fraction: float,
    clip_lengths: Sequence[int] = (),
    fps: float = 8.0,
) -> DatasetIndex:
    """List and open all images and videos, and assign each to the nearest bucket shape.

    make_shapes: the bucket shapes of a data set by its size_px, None for that of the run. A video is divided into clips
    of the greatest of `clip_lengths` that it fills at `fps` frames per second; without lengths, videos are rejected.
    Raises: DianjingError if no sample is usable, or more than `max_rejected_fraction` of them are rejected.
    """
    index = DatasetIndex()
    for dataset in datasets:
        shapes = make_shapes(dataset.size_px)
        listing = list_dataset(dataset)
        result = inspect_records(listing.records, min_side_px=min_side_px, fps=fps if clip_lengths else None)
        for name, reason in (listing.rejected | result.rejected).items():
            index.rejected[f"{dataset.path}: {name}"] = reason
        index.unused |= {f"{dataset.path}: {name}": reason for name, reason in listing.unused.items()}
        for record, size, num_source_frames in zip(result.records, result.sizes, result.num_frames, strict=True):
            try:
                _add_sample(
                    index, record, dataset, size, num_source_frames, shapes=shapes, clip_lengths=clip_lengths, fps=fps
                )
            except DianjingError as error:
                index.rejected[f"{dataset.path}: {record.name}"] = error
    _check_rejected(index, max_fraction=max_rejected_fraction)
    return index


def _add_sample(
    index: DatasetIndex,
    record: SampleRecord,
    dataset: DatasetConfig,
    size: tuple[int, int],
    num_source_frames: int,
    *,
    shapes: Sequence[BucketShape],
    clip_lengths: Sequence[int],
    fps: float,
) -> None:
    """Add an image, or the clips of a video, to the shape that is nearest to its size (width, height).

    A motion label and a first frame belong to the first clip. The others have the captions of the video; without
    captions they are left out. Raises: DianjingError for a sample that cannot be used.
    """
    name, num_frames = f"{dataset.path}: {record.name}", 1
    if num_source_frames > 1:
        num_frames = max((length for length in clip_lengths if length <= num_source_frames), default=0)
        if not num_frames:
            minimum = min(clip_lengths)
            raise DianjingError("video_too_short", count=num_source_frames, fps=f"{fps:g}", minimum=minimum)
    if num_frames == 1 and record.motion_label is not None:
        raise DianjingError("motion_of_image")
    fit, is_padded = find_nearest_bucket(size, shapes), record.fit == "pad"
    if record.motion_label is not None:
        fit_motion_mask(record, size, height=fit.shape[0], width=fit.shape[1])
    has_captions = record.text_zh is not None or record.text_en is not None
    starts = choose_clip_starts(num_source_frames, num_frames) if num_frames > 1 else [0]
    clips = [record, *(replace(record, start_frame=start, motion_label=None, first_frame=None) for start in starts[1:])]
    clips = clips if has_captions else clips[:1]
    for clip in clips:
        index.add(clip, fit.shape if num_frames == 1 else (*fit.shape, num_frames), dataset)
    num_used_frames = num_source_frames if len(clips) == len(starts) else num_frames
    crop = get_crop_reason(
        fit, size, num_used_frames=num_used_frames, num_source_frames=num_source_frames, is_padded=is_padded
    )
    if crop:
        index.cropped[name] = crop


def _check_rejected(index: DatasetIndex, *, max_fraction: float) -> None:
    total = index.count + len(index.rejected)
    if not index.count or len(index.rejected) > max_fraction * total:
        listed = list(index.rejected.items())[:MAX_LISTED]
        raise DianjingError(
            "too_many_rejected",
            count=len(index.rejected),
            total=total,
            limit=f"{max_fraction:.0%}",
            problems=Lines(Message("sample_problem", name=name, reason=reason) for name, reason in listed),
        )
