"""The canvas of the Animate tab: an image with regions that clicks select, and its rendering.

H height, W width; masks are bool (H, W) of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from dianjing.pipelines.segmentation.base import Point, Region

REGION_COLORS = ((255, 64, 64), (64, 128, 255), (64, 200, 64), (250, 170, 30), (180, 90, 220), (40, 190, 190))
MIN_DISPLAY_PX = 512  # smaller images are enlarged, so that outlines and points are fine
MASK_OPACITY = 0.45
POINT_RADIUS_PX = 7
WHITE, DARK_GRAY = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionSelection:
    """The points of one region and their mask."""

    points: tuple[Point, ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionCanvas:
    """An image and its regions; the next click goes to the one at `active_index`."""

    image: Image.Image
    regions: tuple[RegionSelection, ...] = (RegionSelection(),)
    active_index: int = 0

    @property
    def display_scale(self) -> int:
        """Displayed pixels for one of the image."""
        return max(1, -(-MIN_DISPLAY_PX // max(self.image.size)))

    @property
    def active_points(self) -> tuple[Point, ...]:
        return self.regions[self.active_index].points

    def to_image_coordinates(self, display_x: float, display_y: float) -> tuple[float, float]:
        """Map a position on the displayed image to pixels of the image."""
        return display_x / self.display_scale, display_y / self.display_scale

    def with_points(self, points: Sequence[Point], mask: np.ndarray | None) -> "RegionCanvas":
        """Replace the points and the mask of the active region."""
        regions = list(self.regions)
        regions[self.active_index] = RegionSelection(points=tuple(points), mask=mask)
        return replace(self, regions=tuple(regions))

    def with_new_region(self) -> "RegionCanvas":
        """Add an empty region and make it the active one."""
        return replace(self, regions=(*self.regions, RegionSelection()), active_index=len(self.regions))

    def with_active(self, index: int) -> "RegionCanvas":
        """Make another region the active one; the index is clamped."""
        return replace(self, active_index=min(max(index, 0), len(self.regions) - 1))

    def render(self) -> Image.Image:
        """Draw every region as a tint and an outline in its own color, and its points, over the enlarged image."""
        size = (self.image.width * self.display_scale, self.image.height * self.display_scale)
        pixels = np.asarray(self.image.resize(size, Image.Resampling.BICUBIC)).copy()
        for index, region in enumerate(self.regions):
            if region.mask is not None:
                _draw_mask(pixels, region.mask, REGION_COLORS[index % len(REGION_COLORS)])
        for index, region in enumerate(self.regions):
            for point in region.points:
                _draw_point(pixels, point, REGION_COLORS[index % len(REGION_COLORS)], scale=self.display_scale)
        return Image.fromarray(pixels)

    def to_regions(self, motions: Sequence[str], strengths: Sequence[float]) -> list[Region]:
        """The regions of an `ImageToVideoRequest`. Raises: DianjingError as `Region`."""
        return [
            Region(motion=motion, points=selection.points, strength=strength)
            for selection, motion, strength in zip(self.regions, motions, strengths, strict=False)
        ]


def _draw_mask(pixels: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    large = cv2.resize(mask.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    tinted = pixels[large] * (1 - MASK_OPACITY) + np.array(color) * MASK_OPACITY
    pixels[large] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, outlines, -1, color, thickness=2, lineType=cv2.LINE_AA)


def _draw_point(pixels: np.ndarray, point: Point, color: tuple[int, int, int], *, scale: int) -> None:
    """Draw a disc with a white rim; a negative point is dark and crossed."""
    center = (round(point.x * scale), round(point.y * scale))
    fill = color if point.positive else DARK_GRAY
    cv2.circle(pixels, center, POINT_RADIUS_PX + 2, WHITE, thickness=-1, lineType=cv2.LINE_AA)
    cv2.circle(pixels, center, POINT_RADIUS_PX, fill, thickness=-1, lineType=cv2.LINE_AA)
    if not point.positive:
        cv2.drawMarker(pixels, center, WHITE, cv2.MARKER_TILTED_CROSS, POINT_RADIUS_PX, 2, cv2.LINE_AA)
