"""The canvas of the Animate tab: an image with regions that clicks select, and the paths that they follow.

H height, W width; masks are bool (H, W) of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from dianjing.demo.page.canvas_drawing import draw_regions
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.segmentation.base import Point, Region, RegionTarget
from dianjing.pipelines.video.motion_path import XY

MIN_DISPLAY_PX = 512  # smaller images are enlarged, so that outlines and points are fine
GRAB_TOLERANCE = 0.02  # of the longer side: how far from a region's mask a drag of it may begin
REGION_FIELDS = ("points", "path", "times", "turn", "scale", "anchor", "target")  # of a selection, as of a `Region`


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionSelection:
    """The selection of one region and its motion without a phrase: fields of `Region`, and the mask of its points.

    previous: the selection before the last change, without its mask.
    """

    points: tuple[Point, ...] = ()
    mask: np.ndarray | None = None
    path: tuple[XY, ...] | None = None
    times: tuple[float, ...] | None = None
    turn: float = 0.0
    scale: float = 1.0
    anchor: Point | None = None
    target: RegionTarget = "object"
    previous: "RegionSelection | None" = None

    @property
    def is_empty(self) -> bool:
        return self.target == "object" and not self.points

    @property
    def has_transform(self) -> bool:
        """True if the region moves without a motion phrase."""
        return self.path is not None or self.turn != 0 or self.scale != 1


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionCanvas:
    """An image, RGB or RGBA, and its regions; the next click goes to the one at `active_index`."""

    image: Image.Image
    regions: tuple[RegionSelection, ...] = (RegionSelection(),)
    active_index: int = 0

    @property
    def display_scale(self) -> int:
        """Displayed pixels for one of the image."""
        return max(1, -(-MIN_DISPLAY_PX // max(self.image.size)))

    @property
    def active(self) -> RegionSelection:
        return self.regions[self.active_index]

    def to_image_coordinates(self, display_x: float, display_y: float) -> XY:
        """Map a position on the displayed image to pixels of the image."""
        return display_x / self.display_scale, display_y / self.display_scale

    def with_active(self, index: int) -> "RegionCanvas":
        """Make another region the active one; the index is clamped."""
        return replace(self, active_index=min(max(index, 0), len(self.regions) - 1))

    def with_change(self, **changes: Any) -> "RegionCanvas":
        """Change fields of the active region, so that `undo` takes it back."""
        return self._replace_active(replace(self.active, **changes, previous=replace(self.active, mask=None)))

    def with_mask(self, mask: np.ndarray | None) -> "RegionCanvas":
        """Set the mask of the active region's points."""
        return self._replace_active(replace(self.active, mask=mask))

    def undo(self) -> "RegionCanvas":
        """Take back the last change of the active region, whose mask has to be predicted again."""
        return self if self.active.previous is None else self._replace_active(self.active.previous)

    def _replace_active(self, region: RegionSelection) -> "RegionCanvas":
        index = self.active_index
        return replace(self, regions=(*self.regions[:index], region, *self.regions[index + 1 :]))

    def with_new_region(self, target: RegionTarget = "object") -> "RegionCanvas":
        """Add a region and make it the active one; a camera move takes the place of an empty active region."""
        if target == "image" and self.active.is_empty:
            return self.with_change(target=target)
        return replace(self, regions=(*self.regions, RegionSelection(target=target)), active_index=len(self.regions))

    def without_active(self) -> "RegionCanvas":
        """Remove the active region; the last one is emptied."""
        others = self.regions[: self.active_index] + self.regions[self.active_index + 1 :]
        return replace(self, regions=others or (RegionSelection(),)).with_active(self.active_index)

    def find_region(self, x: float, y: float) -> int | None:
        """Find the region whose mask is at a position in px of the image, or near it; the active one first."""
        radius = max(1, round(GRAB_TOLERANCE * max(self.image.size)))
        rows = slice(max(0, round(y) - radius), round(y) + radius + 1)
        columns = slice(max(0, round(x) - radius), round(x) + radius + 1)
        for index in (self.active_index, *reversed(range(len(self.regions)))):
            mask = self.regions[index].mask
            if mask is not None and mask[rows, columns].any():
                return index
        return None

    def render(self) -> Image.Image:
        """Draw every region in its own color over the enlarged image: mask, points, path, and outline at the end."""
        size = (self.image.width * self.display_scale, self.image.height * self.display_scale)
        pixels = np.asarray(to_rgb(self.image).resize(size, Image.Resampling.BICUBIC)).copy()
        draw_regions(pixels, self.regions, scale=self.display_scale)
        return Image.fromarray(pixels)

    def to_regions(self, motions: Sequence[str], strengths: Sequence[float]) -> list[Region]:
        """The regions of an `ImageToVideoRequest`. Raises: DianjingError as `Region`."""
        return [
            Region(
                motion=motion if selection.target == "object" else "",
                strength=strength,
                **{name: getattr(selection, name) for name in REGION_FIELDS},
            )
            for selection, motion, strength in zip(self.regions, motions, strengths, strict=False)
        ]
