"""From data set files to pictures by shape, and a report that names what was left out or cut, and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import BucketFit, BucketShape, find_nearest_bucket
from dianjing.train.data.inspect import inspect_records
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.sources import list_dataset

MIN_REPORTED_CROP = 0.02  # of a picture, cut off


@dataclass(kw_only=True)
class DatasetIndex:
    """Pictures by shape, how often each takes part, and by name what was left out or cut."""

    records: dict[BucketShape, list[SampleRecord]] = field(default_factory=dict)
    repeats: dict[BucketShape, list[float]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    cropped: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))

    def summarize(self) -> str:
        shapes = ", ".join(f"{len(found)} of {format_shape(shape)}" for shape, found in self.records.items())
        return f"{self.count} pictures ({shapes}); {len(self.rejected)} left out, {len(self.cropped)} cut to shape"

    def save(self, path: Path) -> None:
        """Every name with its reason, as JSON."""
        report = {"summary": self.summarize(), "rejected": self.rejected, "cropped": self.cropped}
        path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


def format_shape(shape: BucketShape) -> str:
    height, width, *frames = shape
    return f"{width} x {height} px" + (f" and {frames[0]} frames" if frames else "")


def get_crop_reason(fit: BucketFit, size: tuple[int, int], *, num_frames: int, num_source_frames: int) -> str:
    """What is cut off in bringing a picture of (width, height) or a film of `length` frames to its bucket."""
    why = []
    if fit.cropped_fraction > MIN_REPORTED_CROP:
        height, width = fit.shape
        why.append(f"{fit.cropped_fraction:.0%} cut off to make {size[0]} x {size[1]} px {width} x {height}")
    if num_frames < num_source_frames:
        why.append(f"the first {num_frames} of {num_source_frames} frames")
    return "; ".join(why)


def build_index(
    datasets: Sequence[DatasetConfig],
    bucket_shapes: Sequence[BucketShape],
    *,
    min_side_px: int,
    max_rejected_fraction: float,
    clip_lengths: Sequence[int] = (),
    fps: float = 8.0,
) -> DatasetIndex:
    """Find and open all pictures, and bring each to the nearest shape.

    Films come to the nearest shape and the greatest of `num_frames` that they fill at `fps`; without any, none does.
    Raises: ValueError where nothing is left, or more than `drop_limit` of the pictures had to be left out.
    """
    gathered = DatasetIndex()
    for section in datasets:
        found = list_dataset(section)
        looked = inspect_records(found.records, min_side_px=min_side_px, fps=fps if clip_lengths else None)
        gathered.rejected |= {
            f"{section.path}: {name}": why for name, why in (found.rejected | looked.rejected).items()
        }
        for entry, size, length in zip(looked.records, looked.sizes, looked.num_frames, strict=True):
            name, fitted = f"{section.path}: {entry.name}", find_nearest_bucket(size, bucket_shapes)
            kept = 1 if length == 1 else max((count for count in clip_lengths if count <= length), default=0)
            if not kept:
                gathered.rejected[name] = (
                    f"{length} frames at {fps:g} a second; the shortest clip has {min(clip_lengths)}"
                )
            elif kept == 1 and entry.motion_label is not None:
                gathered.rejected[name] = "a click on a picture, which does not move"
            else:
                shape = fitted.shape if kept == 1 else (*fitted.shape, kept)
                gathered.records.setdefault(shape, []).append(entry)
                gathered.repeats.setdefault(shape, []).append(section.repeats)
                if why := get_crop_reason(fitted, size, num_frames=kept, num_source_frames=length):
                    gathered.cropped[name] = why
    seen = gathered.count + len(gathered.rejected)
    if not gathered.count or len(gathered.rejected) > max_rejected_fraction * seen:
        lines = "".join(f"\n  {name}: {why}" for name, why in list(gathered.rejected.items())[:20])
        raise ValueError(
            f"{len(gathered.rejected)} of {seen} pictures cannot be used; data.max_rejected_fraction allows {max_rejected_fraction:.0%}. "
            f"Mend or remove them, or raise the limit:{lines}"
        )
    return gathered
