"""A picture that is clicked on: what is selected, region by region, and how that looks over the picture.

H height, W width; masks are bool (H, W) of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from dianjing.pipelines.regions import Region
from dianjing.pipelines.segmenting import Point

TINTS = ((255, 64, 64), (64, 128, 255), (64, 200, 64), (250, 170, 30), (180, 90, 220), (40, 190, 190))
SHOWN_PX = 512  # a smaller picture is shown larger, so that outlines and dots are fine
TINT_SHARE = 0.45
DOT_PX = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Selected:
    """One region: its clicks and what they mean."""

    points: tuple[Point, ...] = ()
    mask: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """A picture and its regions; the next click goes to the one numbered `active`."""

    picture: Image.Image
    regions: tuple[Selected, ...] = (Selected(),)
    active: int = 0

    @property
    def scale(self) -> int:
        """Pixels shown for one of the picture."""
        return max(1, -(-SHOWN_PX // max(self.picture.size)))

    @property
    def points(self) -> tuple[Point, ...]:
        """Of the active region."""
        return self.regions[self.active].points

    def place(self, shown_x: float, shown_y: float) -> tuple[float, float]:
        """A place of the shown picture in pixels of the given one."""
        return shown_x / self.scale, shown_y / self.scale

    def with_points(self, points: Sequence[Point], mask: np.ndarray | None) -> "Canvas":
        """The active region anew."""
        regions = list(self.regions)
        regions[self.active] = Selected(points=tuple(points), mask=mask)
        return replace(self, regions=tuple(regions))

    def with_region(self) -> "Canvas":
        """One more region, that is active."""
        return replace(self, regions=(*self.regions, Selected()), active=len(self.regions))

    def with_active(self, number: int) -> "Canvas":
        return replace(self, active=min(max(number, 0), len(self.regions) - 1))

    def show(self) -> Image.Image:
        """The picture with every region tinted and outlined in a colour of its own, and its clicks."""
        size = (self.picture.width * self.scale, self.picture.height * self.scale)
        shown = np.asarray(self.picture.resize(size, Image.Resampling.BICUBIC)).copy()
        for number, region in enumerate(self.regions):
            if region.mask is not None:
                _tint(shown, region.mask, TINTS[number % len(TINTS)])
        for number, region in enumerate(self.regions):
            for point in region.points:
                _dot(shown, point, TINTS[number % len(TINTS)], scale=self.scale)
        return Image.fromarray(shown)


def to_regions(canvas: Canvas, motions: Sequence[str], strengths: Sequence[float]) -> list[Region]:
    """What `AnimateRequest` takes. Raises: ValueError as `Region`."""
    return [
        Region(motion=motion, points=selected.points, strength=strength)
        for selected, motion, strength in zip(canvas.regions, motions, strengths, strict=False)
    ]


def _tint(shown: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    large = cv2.resize(mask.astype(np.float32), shown.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    tinted = shown[large] * (1 - TINT_SHARE) + np.array(colour) * TINT_SHARE
    shown[large] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, colour, thickness=2, lineType=cv2.LINE_AA)


def _dot(shown: np.ndarray, point: Point, colour: tuple[int, int, int], *, scale: int) -> None:
    """Full where something is meant, crossed where not."""
    centre = (round(point.x * scale), round(point.y * scale))
    cv2.circle(shown, centre, DOT_PX + 2, (255, 255, 255), thickness=-1, lineType=cv2.LINE_AA)
    cv2.circle(shown, centre, DOT_PX, colour if point.positive else (40, 40, 40), thickness=-1, lineType=cv2.LINE_AA)
    if not point.positive:
        cv2.drawMarker(shown, centre, (255, 255, 255), cv2.MARKER_TILTED_CROSS, DOT_PX, 2, cv2.LINE_AA)
