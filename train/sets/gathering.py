"""From data set files to pictures by shape, and a report that names what was left out or cut, and why."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dianjing.train.sections import SetSection
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.finding import find
from dianjing.train.sets.looking import look
from dianjing.train.sets.shapes import Fitted, Shape, nearest

WORTH_TELLING = 0.02  # of a picture, cut off


@dataclass(kw_only=True)
class Gathered:
    """Pictures by shape, how often each takes part, and by name what was left out or cut."""

    pictures: dict[Shape, list[Entry]] = field(default_factory=dict)
    repeats: dict[Shape, list[float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    cropped: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.pictures.values()))

    def summary(self) -> str:
        shapes = ", ".join(f"{len(found)} of {named(shape)}" for shape, found in self.pictures.items())
        return f"{self.count} pictures ({shapes}); {len(self.dropped)} left out, {len(self.cropped)} cut to shape"

    def save(self, path: Path) -> None:
        """Every name with its reason, as JSON."""
        report = {"summary": self.summary(), "left_out": self.dropped, "cut": self.cropped}
        path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


def named(shape: Shape) -> str:
    height, width, *frames = shape
    return f"{width} x {height} px" + (f" and {frames[0]} frames" if frames else "")


def lost(fitted: Fitted, size: tuple[int, int], *, kept: int, length: int) -> str:
    """What is cut off in bringing a picture of (width, height) or a film of `length` frames to its bucket."""
    why = []
    if fitted.cut > WORTH_TELLING:
        height, width = fitted.shape
        why.append(f"{fitted.cut:.0%} cut off to make {size[0]} x {size[1]} px {width} x {height}")
    if kept < length:
        why.append(f"the first {kept} of {length} frames")
    return "; ".join(why)


def gather(
    sets: Sequence[SetSection],
    shapes: Sequence[Shape],
    *,
    min_px: int,
    drop_limit: float,
    num_frames: Sequence[int] = (),
    fps: float = 8.0,
) -> Gathered:
    """Find and open all pictures, and bring each to the nearest shape.

    Films come to the nearest shape and the greatest of `num_frames` that they fill at `fps`; without any, none does.
    Raises: ValueError where nothing is left, or more than `drop_limit` of the pictures had to be left out.
    """
    gathered = Gathered()
    for section in sets:
        found = find(section)
        looked = look(found.entries, min_px=min_px, fps=fps if num_frames else None)
        gathered.dropped |= {f"{section.path}: {name}": why for name, why in (found.dropped | looked.dropped).items()}
        for entry, size, length in zip(looked.entries, looked.sizes, looked.lengths, strict=True):
            name, fitted = f"{section.path}: {entry.name}", nearest(size, shapes)
            kept = 1 if length == 1 else max((count for count in num_frames if count <= length), default=0)
            if not kept:
                gathered.dropped[name] = f"{length} frames at {fps:g} a second; the shortest clip has {min(num_frames)}"
            elif kept == 1 and entry.click is not None:
                gathered.dropped[name] = "a click on a picture, which does not move"
            else:
                shape = fitted.shape if kept == 1 else (*fitted.shape, kept)
                gathered.pictures.setdefault(shape, []).append(entry)
                gathered.repeats.setdefault(shape, []).append(section.repeats)
                if why := lost(fitted, size, kept=kept, length=length):
                    gathered.cropped[name] = why
    seen = gathered.count + len(gathered.dropped)
    if not gathered.count or len(gathered.dropped) > drop_limit * seen:
        lines = "".join(f"\n  {name}: {why}" for name, why in list(gathered.dropped.items())[:20])
        raise ValueError(
            f"{len(gathered.dropped)} of {seen} pictures cannot be used; data.drop_limit allows {drop_limit:.0%}. "
            f"Mend or remove them, or raise the limit:{lines}"
        )
    return gathered
