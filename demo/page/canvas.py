"""A picture that is clicked on: what is selected, region by region, and how that looks over the picture.

H height, W width; masks are bool (H, W) of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from dianjing.pipelines.segmentation.base import Point, Region

REGION_COLOURS = ((255, 64, 64), (64, 128, 255), (64, 200, 64), (250, 170, 30), (180, 90, 220), (40, 190, 190))
MIN_DISPLAY_PX = 512  # a smaller picture is shown larger, so that outlines and dots are fine
MASK_OPACITY = 0.45
POINT_RADIUS_PX = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionSelection:
    """One region: its clicks and what they mean."""

    points: tuple[Point, ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionCanvas:
    """A picture and its regions; the next click goes to the one numbered `active`."""

    image: Image.Image
    regions: tuple[RegionSelection, ...] = (RegionSelection(),)
    active_index: int = 0

    @property
    def display_scale(self) -> int:
        """Pixels shown for one of the picture."""
        return max(1, -(-MIN_DISPLAY_PX // max(self.image.size)))

    @property
    def active_points(self) -> tuple[Point, ...]:
        """Of the active region."""
        return self.regions[self.active_index].points

    def to_image_coordinates(self, display_x: float, display_y: float) -> tuple[float, float]:
        """A place of the shown picture in pixels of the given one."""
        return display_x / self.display_scale, display_y / self.display_scale

    def with_points(self, points: Sequence[Point], mask: np.ndarray | None) -> "RegionCanvas":
        """The active region anew."""
        regions = list(self.regions)
        regions[self.active_index] = RegionSelection(points=tuple(points), mask=mask)
        return replace(self, regions=tuple(regions))

    def with_new_region(self) -> "RegionCanvas":
        """One more region, that is active."""
        return replace(self, regions=(*self.regions, RegionSelection()), active_index=len(self.regions))

    def with_active(self, index: int) -> "RegionCanvas":
        return replace(self, active_index=min(max(index, 0), len(self.regions) - 1))

    def render(self) -> Image.Image:
        """The picture with every region tinted and outlined in a colour of its own, and its clicks."""
        size = (self.image.width * self.display_scale, self.image.height * self.display_scale)
        shown = np.asarray(self.image.resize(size, Image.Resampling.BICUBIC)).copy()
        for number, region in enumerate(self.regions):
            if region.mask is not None:
                _draw_mask(shown, region.mask, REGION_COLOURS[number % len(REGION_COLOURS)])
        for number, region in enumerate(self.regions):
            for point in region.points:
                _draw_point(shown, point, REGION_COLOURS[number % len(REGION_COLOURS)], scale=self.display_scale)
        return Image.fromarray(shown)


def to_regions(canvas: RegionCanvas, motions: Sequence[str], strengths: Sequence[float]) -> list[Region]:
    """What `AnimateRequest` takes. Raises: ValueError as `Region`."""
    return [
        Region(motion=motion, points=selected.points, strength=strength)
        for selected, motion, strength in zip(canvas.regions, motions, strengths, strict=False)
    ]


def _draw_mask(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    large = cv2.resize(mask.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    tinted = pixels[large] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY
    pixels[large] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, outlines, -1, colour, thickness=2, lineType=cv2.LINE_AA)


def _draw_point(pixels: np.ndarray, point: Point, colour: tuple[int, int, int], *, scale: int) -> None:
    """Full where something is meant, crossed where not."""
    centre = (round(point.x * scale), round(point.y * scale))
    cv2.circle(pixels, centre, POINT_RADIUS_PX + 2, (255, 255, 255), thickness=-1, lineType=cv2.LINE_AA)
    cv2.circle(
        pixels, centre, POINT_RADIUS_PX, colour if point.positive else (40, 40, 40), thickness=-1, lineType=cv2.LINE_AA
    )
    if not point.positive:
        cv2.drawMarker(pixels, centre, (255, 255, 255), cv2.MARKER_TILTED_CROSS, POINT_RADIUS_PX, 2, cv2.LINE_AA)
